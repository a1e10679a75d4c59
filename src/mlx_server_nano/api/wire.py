"""Request bodies: JSON to structs, with every fault told as a 400 that names the field."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import Final, TypeVar

import msgspec

from mlx_server_nano.errors import InvalidRequestError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# msgspec ends its messages so: "... - at `$.messages[0].role`", "... - at `key` in `$.logit_bias`", and "... - at
# `$.logit_bias[...]`" for a value in a mapping, whose key it does not tell.
_LOCATION: Final = re.compile(r" - at (?:`key` in )?`\$(?P<path>[^`]*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>[^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_LOGGED_NAMES: Final = 1000

# What else helps with a field that is wrong.
_HINTS: Final = {"model": "`GET /v1/models` lists the models that are here."}


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The struct in a request's body. Raises InvalidRequestError, with `param` as a path (`messages.0.role`)."""
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return decoder.decode(_without_lone_surrogates(body))
    except msgspec.ValidationError as error:
        raise _located(str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequestError("The request body is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidRequestError("The request body is nested too deeply.") from None
    except ValueError as error:
        raise InvalidRequestError(f"The request body is not valid JSON: {error}") from None


def _without_lone_surrogates(body: bytes) -> str:
    """The same JSON with U+FFFD for halves of surrogate pairs, which JavaScript clients send when they cut a text inside an
    emoji and which msgspec refuses. Raises ValueError for anything else that is no JSON."""
    text = json.dumps(json.loads(body.decode()), ensure_ascii=False)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _located(message: str) -> InvalidRequestError:
    path = ""
    if found := _LOCATION.search(message):
        path, message = found["path"], message[: found.start()]
    steps = [name or index for name, index in _STEP.findall(path)]
    if missing := _MISSING.match(message):
        steps.append(missing["name"])
        message = "Missing required field"
    param = ".".join(steps) or None
    text = f"{message}: `{param}`." if param else f"{message}."
    return InvalidRequestError(" ".join(filter(None, (text, _HINTS.get(param or "")))), param=param)


class UnknownFields:
    """Logs the top-level fields that a dialect does not know, each name once, at DEBUG."""

    def __init__(self, body_type: type[msgspec.Struct]) -> None:
        self._known = frozenset(body_type.__struct_encode_fields__)
        self._logged: set[str] = set()

    def log(self, body: bytes) -> None:
        """`body` has been decoded before, so it is a JSON object."""
        if not logger.isEnabledFor(logging.DEBUG) or len(self._logged) > _LOGGED_NAMES:
            return
        fields: dict[str, msgspec.Raw] = {}
        with contextlib.suppress(ValueError):  # lone surrogates, as above
            fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        for name in fields.keys() - self._known - self._logged:
            self._logged.add(name)
            logger.debug("Ignoring the unknown request field %r", name)
