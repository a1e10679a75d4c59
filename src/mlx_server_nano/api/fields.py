"""Request fields that the server knows and does not act on: what is refused, and what is accepted without effect.

They are marked where the bodies are declared, so that decoders and the OpenAPI document say the same.
"""

from __future__ import annotations

from typing import Final, get_type_hints

from msgspec import Meta, Struct

from mlx_server_nano.errors import UnsupportedParameterError

_NOTHING: Final = "asks_for_nothing"

NOT_SUPPORTED: Final = "Not supported."
# For fields that mean something to their vendor's own service only.
NO_EFFECT: Final = Meta(description="Accepted, without effect.")


def only(*values: object) -> Meta:
    """For a field that changes the answer in ways the server does not offer: the values that, like null, ask for nothing."""
    return Meta(
        description=NOT_SUPPORTED, extra_json_schema={"enum": [None, *values]}, extra={_NOTHING: (None, *values)}
    )


class RefusedFields:
    """The fields of a body that are marked by `only`."""

    def __init__(self, body_type: type[Struct]) -> None:
        self._allowed: dict[str, tuple[object, ...]] = {
            name: meta.extra[_NOTHING]
            for name, hint in get_type_hints(body_type, include_extras=True).items()
            for meta in getattr(hint, "__metadata__", ())
            if isinstance(meta, Meta) and meta.extra and _NOTHING in meta.extra
        }

    def check(self, wire: Struct) -> None:
        """Raises UnsupportedParameterError for the first that asks for something."""
        for name, allowed in self._allowed.items():
            value = getattr(wire, name)
            if not any(type(value) is type(nothing) and value == nothing for nothing in allowed):
                raise UnsupportedParameterError(f"`{name}` is not supported by this server.", param=name)
