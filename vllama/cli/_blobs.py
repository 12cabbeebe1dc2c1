"""Files of this machine as blobs of the server."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vllama.cli._steps import Show, Step
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.cli._client import Server

_PIECE = 2**20


def upload(server: "Server", files: Collection[Path], show: Show) -> dict[Path, str]:
    """Send those that the server does not have. Returns the digests of all."""
    if files:
        show(Step("gathering model components"))
    try:
        digests = {file: _digest(file) for file in files}
        for file, digest in digests.items():
            if not server.has_blob(digest):
                _send(server, file, digest, f"copying {file.name}", show)
    except OSError as error:
        raise VllamaError(f"cannot read {error.filename} ({error.strerror})") from None
    return digests


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _send(server: "Server", path: Path, digest: str, status: str, show: Show) -> None:
    size = path.stat().st_size
    with path.open("rb") as content:
        server.send_blob(digest, size, _counted(content, status, size, show))


def _counted(content: IO[bytes], status: str, size: int, show: Show) -> Iterator[bytes]:
    """The content in pieces, showing how much of it was taken."""
    done = 0
    while piece := content.read(_PIECE):
        show(Step(status, size, done := done + len(piece)))
        yield piece
