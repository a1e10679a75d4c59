from __future__ import annotations

import errno

import httpx
import pytest
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mlx_server_nano.errors import (
    DiskFullError,
    HubUnavailableError,
    ModelAccessError,
    ModelNotFoundError,
    ServerError,
    UnsupportedModelError,
)
from mlx_server_nano.models.hub_errors import explain


def answered(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response = httpx.Response(status, request=httpx.Request("GET", "http://hub/a/b"))
    return kind("said", response=response)  # type: ignore[arg-type]  # the library's httpx is another, and alike


def caused(cause: BaseException) -> BaseException:
    """As snapshot_download wraps what it met."""
    try:
        raise LocalEntryNotFoundError("not in the cache either") from cause
    except LocalEntryNotFoundError as error:
        return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answered(RepositoryNotFoundError, 401), ModelNotFoundError),
        (answered(RevisionNotFoundError, 404), ModelNotFoundError),
        (answered(HfHubHTTPError, 404), ModelNotFoundError),
        (answered(GatedRepoError, 403), ModelAccessError),
        (answered(DisabledRepoError, 403), ModelAccessError),
        (answered(HfHubHTTPError, 401), ModelAccessError),
        (answered(HfHubHTTPError, 429), HubUnavailableError),
        (answered(HfHubHTTPError, 503), HubUnavailableError),
        (OfflineModeIsEnabled("offline"), HubUnavailableError),
        (LocalEntryNotFoundError("nothing"), HubUnavailableError),
        (TimeoutError(), HubUnavailableError),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFullError),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), DiskFullError),
        (UnsupportedModelError("it"), UnsupportedModelError),
    ],
)
@pytest.mark.parametrize("wrap", [lambda error: error, caused], ids=["plain", "wrapped"])
def test_each_failure_is_its_own_error(error: BaseException, expected: type[ServerError], wrap: object) -> None:
    assert callable(wrap)
    assert type(explain(wrap(error), "a/b")) is expected


def test_the_root_cause_is_told_in_one_line() -> None:
    explained = explain(caused(ConnectionError("no route\nmore")), "a/b")
    assert explained.message == "a/b is not in the cache, and downloading it from the Hub failed: no route"
    assert explain(TimeoutError(), "a/b").message.endswith("failed: TimeoutError")
