"""The errors that a client may see. No HTTP library is needed to raise one.

ServerError                         500  server_error
├── InvalidRequestError             400  invalid_request_error
│   ├── ContextLengthError               code context_length_exceeded
│   ├── UnsupportedParameterError        code unsupported_parameter
│   │   └── UnsupportedThreadError       a conversation that the server is to keep, in Anthropic's dialect
│   └── UnsupportedModelError            code model_not_supported
├── AuthenticationError             401  code invalid_api_key
├── ModelAccessError                403  code model_access_denied: a gated or private repository
├── HostNotAllowedError             403  code host_not_allowed: called by a name that is not the server's
├── OriginNotAllowedError           403  code origin_not_allowed: a web page that may not use the server
├── NotFoundError                   404  an unknown path
│   ├── ModelNotFoundError               code model_not_found
│   └── PreviousResponseNotFoundError    code previous_response_not_found
├── MethodNotAllowedError           405
├── ModelInUseError                 409  code model_in_use: it is not unloaded
├── PayloadTooLargeError            413
├── UnsupportedMediaTypeError       415
├── QueueFullError                  429  rate_limit_error; retry_after
├── GenerationError                 500  code generation_failed: a forward pass or its host-side work failed
│   ├── WorkerDiedError                  code worker_died
│   └── ModelLoadError                   code model_load_failed
├── UnavailableError                503  code unavailable: draining, or no worker can be started; retry_after
│   ├── HubUnavailableError              code hub_unavailable: offline, unreachable, failing
│   └── OutOfMemoryError                 code insufficient_memory: the model does not fit beside what runs
└── DiskFullError                   507  code insufficient_storage
"""

from __future__ import annotations

import logging
import traceback
from typing import ClassVar

from msgspec import Struct


class Failure(Struct, frozen=True, array_like=True):
    """A ServerError on its way from a worker to the gateway: the class's name and what it was raised with."""

    kind: str
    message: str
    param: str | None = None


class ServerError(Exception):
    """Base of all errors with a meaning on the wire.

    `message` is for people; `param` names the request field at fault, as a path (`messages.0.role`);
    `retry_after` is in seconds and becomes the HTTP header.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retry_after: int | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after is not None:
            self.retry_after = retry_after

    def to_failure(self) -> Failure:
        return Failure(type(self).__name__, self.message, self.param)


class InvalidRequestError(ServerError):
    status = 400
    type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class UnsupportedParameterError(InvalidRequestError):
    code = "unsupported_parameter"


class UnsupportedThreadError(UnsupportedParameterError):
    """A conversation that the server is to keep, in Anthropic's dialect."""


class UnsupportedModelError(InvalidRequestError):
    code = "model_not_supported"


class AuthenticationError(ServerError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ModelAccessError(ServerError):
    status = 403
    type = "invalid_request_error"
    code = "model_access_denied"


class HostNotAllowedError(ServerError):
    status = 403
    type = "invalid_request_error"
    code = "host_not_allowed"


class OriginNotAllowedError(ServerError):
    status = 403
    type = "invalid_request_error"
    code = "origin_not_allowed"


class NotFoundError(ServerError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFoundError(NotFoundError):
    code = "model_not_found"


class PreviousResponseNotFoundError(NotFoundError):
    code = "previous_response_not_found"


class MethodNotAllowedError(ServerError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class ModelInUseError(ServerError):
    status = 409
    type = "invalid_request_error"
    code = "model_in_use"


class PayloadTooLargeError(ServerError):
    status = 413
    type = "invalid_request_error"
    code = "payload_too_large"


class UnsupportedMediaTypeError(ServerError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class QueueFullError(ServerError):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retry_after = 1


class GenerationError(ServerError):
    code = "generation_failed"


class WorkerDiedError(GenerationError):
    code = "worker_died"


class ModelLoadError(GenerationError):
    code = "model_load_failed"


class UnavailableError(ServerError):
    status = 503
    code = "unavailable"
    retry_after = 5


class HubUnavailableError(UnavailableError):
    code = "hub_unavailable"


class OutOfMemoryError(UnavailableError):
    code = "insufficient_memory"


class DiskFullError(ServerError):
    status = 507
    code = "insufficient_storage"


def _tree(cls: type[ServerError]) -> dict[str, type[ServerError]]:
    found = {cls.__name__: cls}
    for sub in cls.__subclasses__():
        found |= _tree(sub)
    return found


def from_failure(failure: Failure) -> ServerError:
    """The error that a worker sent. An unknown kind becomes a plain ServerError."""
    return _tree(ServerError).get(failure.kind, ServerError)(failure.message, param=failure.param)


def log_fault(logger: logging.Logger, what: str, error: Exception) -> None:
    """Log an error that has no meaning on the wire: of which kind and where. What it says may quote a request, and is told
    only at DEBUG."""
    where = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    logger.error("%s (%s):\n%s", what, type(error).__name__, where)
    logger.debug("What the error says:", exc_info=error)
