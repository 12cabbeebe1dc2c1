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
    return {name: _send(server, name, file, show) for name, file in model_files(path).items()}


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


def _send(server: "Server", name: str, path: Path, show: Show) -> str:
    """The file's digest, once the server has it."""
    try:
        with path.open("rb") as content:
            show(Step("gathering model components"))
            digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
            if not server.has_blob(digest):
                content.seek(0)
                size = path.stat().st_size
                server.send_blob(digest, size, _counted(content, f"copying {name}", size, show))
    except OSError as error:
        raise VllamaError(f"cannot read {path} ({error.strerror})") from None
    return digest


def _counted(content: IO[bytes], status: str, size: int, show: Show) -> Iterator[bytes]:
    """The content in pieces, showing how much of it was taken."""
    done = 0
    while piece := content.read(_PIECE):
        show(Step(status, size, done := done + len(piece)))
        yield piece
