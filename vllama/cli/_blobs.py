"""Files of this machine as blobs of the server."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vllama.cli._steps import Show, Step
from vllama.errors import VllamaError
from vllama.models._repository import has_weights, wanted_files

if TYPE_CHECKING:
    from vllama.cli._client import Server

_PIECE = 2**20


def upload(server: "Server", path: Path, show: Show) -> dict[str, str]:
    """Send the file, or what of a folder makes a model. Returns the digests by file name."""
    files = model_files(path)
    show(Step("gathering model components"))
    try:
        digests = {name: _digest(file) for name, file in files.items()}
        for name, file in files.items():
            if not server.has_blob(digests[name]):
                _send(server, file, digests[name], f"copying {name}", show)
    except OSError as error:
        raise VllamaError(f"cannot read {error.filename} ({error.strerror})") from None
    return digests


def model_files(path: Path) -> dict[str, Path]:
    """By their names within the folder. Raises VllamaError where there is nothing for vLLM."""
    if path.suffix == ".gguf":
        raise VllamaError(f"{path} is a GGUF file", "vLLM needs the safetensors model it was made from")
    if path.is_file():
        return {path.name: path}
    names = [str(file.relative_to(path)) for depth in ("*", "*/*") for file in path.glob(depth) if file.is_file()]
    wanted = wanted_files(names)
    if not has_weights(wanted):
        raise VllamaError(f"{path} holds no weights", "name a folder with *.safetensors files")
    return {name: path / name for name in wanted}


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
