"""What huggingface_hub raises, as the server's errors. Imports huggingface_hub: for the fetching process only."""

from __future__ import annotations

import errno

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
)


def explain(error: BaseException, repository: str) -> ServerError:
    """The ServerError that tells a client why `repository` could not be downloaded.

    Anything unknown is a download that failed: connections break in as many ways as there are libraries below.
    """
    chain = _chain(error)
    # snapshot_download reports many failures as "not in the cache either", caused by what really happened.
    for cause in chain:
        if isinstance(cause, ServerError):
            return cause
        if _is_disk_full(cause):
            return DiskFullError(f"no space is left on the disk to download {repository}")
        if isinstance(cause, OfflineModeIsEnabled):
            return HubUnavailableError(f"{repository} is not in the cache, and HF_HUB_OFFLINE forbids to download it")
        if isinstance(cause, HfHubHTTPError):
            return _explain_status(cause, repository)
    root = next((cause for cause in reversed(chain) if not isinstance(cause, LocalEntryNotFoundError)), error)
    reason = str(root).strip().partition("\n")[0] or type(root).__name__
    return HubUnavailableError(f"{repository} is not in the cache, and downloading it from the Hub failed: {reason}")


def _explain_status(error: HfHubHTTPError, repository: str) -> ServerError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return ModelAccessError(
            f"{repository} is gated: accept its licence on the Hub, then start the server with that account's HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFoundError(
            f"there is no model {repository} on the Hub, or it is private and HF_TOKEN does not open it"
        )
    if isinstance(error, RevisionNotFoundError) or status == 404:
        return ModelNotFoundError(f"{repository} on the Hub has no such file or branch")
    if isinstance(error, DisabledRepoError):
        return ModelAccessError(f"the Hub has disabled {repository}")
    if status in (401, 403):
        return ModelAccessError(f"the Hub refuses access to {repository}: set HF_TOKEN to a token that may read it")
    if status == 429:
        return HubUnavailableError("the Hub limits how much may be downloaded (429): try later, or set HF_TOKEN")
    return HubUnavailableError(f"the Hub answered {status} for {repository}")


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and its causes, outermost first."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return isinstance(error, RuntimeError) and "No space left on device" in str(error)  # hf_xet's way to say it
