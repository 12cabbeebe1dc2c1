"""Forms with files, as `multipart/form-data` (RFC 7578), read from where they lie while they are sent."""

import secrets
from collections.abc import AsyncGenerator
from typing import Protocol

from vllama.errors import EngineError

PIECE_BYTES = 2**16


class File(Protocol):
    """What a part's content is read from."""

    async def seek(self, offset: int) -> object: ...

    async def read(self, size: int) -> bytes: ...


class Form:
    """Can be sent more than once. size: bytes of it all, which is known before anything is read."""

    def __init__(self) -> None:
        self._boundary = secrets.token_hex(16)
        self._parts: list[bytes | tuple[File, int]] = []
        self._end = f"--{self._boundary}--\r\n".encode()
        self.size = len(self._end)

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    def add(self, name: str, value: str) -> None:
        """Append a field."""
        self._append(self._head(f'name="{_quoted(name)}"') + value.encode() + b"\r\n")

    def add_file(self, name: str, file: File, size: int, *, filename: str, content_type: str) -> None:
        """Append a file's whole content, which is `size` bytes long."""
        kind = content_type if content_type.isascii() and content_type.isprintable() else "application/octet-stream"
        self._append(self._head(f'name="{_quoted(name)}"; filename="{_quoted(filename)}"\r\nContent-Type: {kind}'))
        self._parts.append((file, size))
        self.size += size
        self._append(b"\r\n")

    def _head(self, parameters: str) -> bytes:
        return f"--{self._boundary}\r\nContent-Disposition: form-data; {parameters}\r\n\r\n".encode()

    def _append(self, data: bytes) -> None:
        self._parts.append(data)
        self.size += len(data)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Its bytes, from the beginning, never many at once."""
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                file, left = part
                await file.seek(0)
                while left > 0 and (piece := await file.read(min(left, PIECE_BYTES))):
                    yield piece
                    left -= len(piece)
                if left:
                    raise EngineError(f"a file for the engine is {left} bytes shorter than it was")
        yield self._end


def _quoted(name: str) -> str:
    """As browsers write it, and as those who read it expect it (WHATWG)."""
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
