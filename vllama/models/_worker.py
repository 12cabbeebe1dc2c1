"""What the processes that talk to the hub have in common: how they report, what failures are called, how they end."""

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx2
from huggingface_hub import errors

from vllama.models._child import without_token


class Refused(Exception):  # noqa: N818
    """Work that cannot succeed. kind: a key of `vllama.models.hub.ERRORS`."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail


def run(work: Callable[[], Any]) -> None:
    """Do the work, say how it ended, and end the process with all its threads."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    say(outcome(work))
    os._exit(0)


def outcome(work: Callable[[], Any]) -> dict[str, Any]:
    """The last thing to say about a piece of work, which is done here."""
    try:
        return {"done": work()}
    except Refused as refused:
        return {"error": refused.kind, "detail": without_token(refused.detail)}
    except Exception as error:
        kind, detail = classify(error)
        return {"error": kind, "detail": without_token(detail)}


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def classify(error: BaseException) -> tuple[str, str]:
    """The kind of a failure of huggingface_hub's, and what it said itself."""
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (errors.GatedRepoError, "gated"),
        (errors.DisabledRepoError, "disabled"),
        (errors.RevisionNotFoundError, "revision_not_found"),
        (errors.RepositoryNotFoundError, "not_found"),
        (errors.HFValidationError, "not_found"),
        (errors.OfflineModeIsEnabled, "offline"),
        ((httpx2.ConnectError, httpx2.ProxyError, httpx2.ConnectTimeout), "unreachable"),
        ((httpx2.TransportError, errors.LocalEntryNotFoundError), "interrupted"),
    )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in {401, 403}:
        if error.response.headers.get("X-Error-Code") == "GatedRepo":
            return "gated", ""
        if not isinstance(error, errors.RepositoryNotFoundError):
            return "bad_token", ""
    for types, kind in kinds:
        if isinstance(error, types):
            return kind, _first_line(error)
    if isinstance(error, OSError) and error.errno in {28, 122}:
        return "no_space", _first_line(error)
    return "failed", _first_line(error)


def is_transient(error: BaseException) -> bool:
    """Whether to try again may help."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in {408, 429} or error.response.status_code >= 500
    cut = isinstance(error, OSError) and "Consistency check failed" in str(error)
    return cut or isinstance(error, httpx2.TransportError | errors.LocalEntryNotFoundError | errors.XetDownloadError)


def _end_with_parent() -> None:
    # The parent writes no more: a read returns when its end of the pipe is closed, whatever closed it.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
