"""Uploaded files, by the SHA-256 of their content."""

import asyncio
import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterable, Collection
from pathlib import Path
from typing import BinaryIO

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_PART = 4 * 2**20
"""Bytes that are written in one go: each goes through a thread."""


class DigestMismatchError(ValueError):
    """What arrived is not what was announced. digest: of what arrived."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest


def read_digest(text: str) -> str | None:
    """`sha256:` and 64 digits; None for what is no digest."""
    found = _DIGEST.fullmatch(text)
    return f"sha256:{found[1].lower()}" if found else None


class Blobs:
    """Files below `folder`. Digests are like `sha256:…`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def prune(self, needed: Collection[str], before: float) -> None:
        """Remove files last changed before a time (seconds of the epoch), but for the needed ones."""
        kept = {self.path(digest).name for digest in needed}
        for path in self._folder.glob("*"):
            with contextlib.suppress(OSError):
                if path.name not in kept and path.stat().st_mtime < before:
                    path.unlink()

    async def add(self, stream: AsyncIterable[bytes], digest: str) -> bool:
        """Keep what arrives. False where it was there already, and nothing was read.

        Raises DigestMismatchError where it is something else, OSError where the disk does not take it; then, and when
        the task is cancelled, nothing of it stays.
        """
        if await asyncio.to_thread(self.has, digest):
            return False
        file = await asyncio.to_thread(self._open)
        try:
            await self._receive(stream, file, digest)
        finally:
            await asyncio.shield(asyncio.to_thread(_discard, file))
        return True

    async def _receive(self, stream: AsyncIterable[bytes], file: BinaryIO, digest: str) -> None:
        content, part = hashlib.sha256(), bytearray()

        def write(data: bytes) -> None:
            content.update(data)
            file.write(data)

        async for chunk in stream:
            part += chunk
            if len(part) >= _PART:
                await asyncio.to_thread(write, bytes(part))
                part.clear()
        await asyncio.to_thread(write, bytes(part))
        if (arrived := f"sha256:{content.hexdigest()}") != digest:
            raise DigestMismatchError(arrived)
        await asyncio.to_thread(self._keep, file, digest)

    def _open(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        return tempfile.NamedTemporaryFile(dir=self._folder, prefix="incoming-", delete=False)  # type: ignore[return-value]

    def _keep(self, file: BinaryIO, digest: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        Path(file.name).chmod(0o644)
        Path(file.name).rename(self.path(digest))


def _discard(file: BinaryIO) -> None:
    file.close()
    Path(file.name).unlink(missing_ok=True)
