"""What failures of the hub's library, and of the machine, are called."""

import errno
import os

import httpx2
from huggingface_hub import errors

from tests.each import each
from vllama.models._worker import classify, is_transient
from vllama.models.hub import ERRORS


def refused(status: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError, code: str = "") -> Exception:
    request = httpx2.Request("GET", "http://hub/x")
    return kind("no", response=httpx2.Response(status, headers={"X-Error-Code": code}, request=request))


@each(
    ("error", "kind", "transient"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no_space", False),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "no_space", False),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "failed", False),
        (OSError("Consistency check failed: file should be of size 2 but has size 1"), "failed", True),
        (httpx2.RemoteProtocolError("peer closed connection"), "interrupted", True),
        (httpx2.ReadTimeout("no byte came"), "interrupted", True),
        (httpx2.ConnectError("refused"), "unreachable", True),
        (refused(503), "failed", True),
        (refused(429), "failed", True),
        (refused(401), "bad_token", False),
        (refused(403), "bad_token", False),
        (refused(403, code="GatedRepo"), "gated", False),
        (refused(404, errors.RevisionNotFoundError), "revision_not_found", False),
        (refused(401, errors.RepositoryNotFoundError), "not_found", False),
        (ValueError("\n"), "failed", False),
    ],
)
def test_failures(error: Exception, kind: str, transient: bool) -> None:
    assert classify(error)[0] == kind
    assert kind in ERRORS
    assert is_transient(error) is transient
