"""A folder for what an engine's processes leave lying about: vLLM's meet at sockets and files that it never removes."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

_MAX_SOCKET_PATH = 107
"""Bytes (`sun_path` in unix(7))."""
_SOCKET_NAME = 37
"""Bytes of what vLLM adds to it: a slash and a UUID."""


class Scratch:
    """For the life of one engine. beside: a folder of the gateway's own, where one crash leaves nothing for good.

    url: where the engine listens; its socket goes with the rest.
    """

    def __init__(self, beside: Path | None, url: str = "") -> None:
        self._socket = Path(url.removeprefix("unix:")) if url.startswith("unix:") else None
        self._path: Path | None = None
        if beside is not None and len(os.fsencode(beside / "e-12345678")) + _SOCKET_NAME <= _MAX_SOCKET_PATH:
            with contextlib.suppress(OSError):
                self._path = Path(tempfile.mkdtemp(prefix="e-", dir=beside))

    @property
    def variables(self) -> Mapping[str, str]:
        """For the engine's environment. None where it is to use the temporary folder of all."""
        return {"TMPDIR": str(self._path), "VLLM_RPC_BASE_PATH": str(self._path)} if self._path else {}

    def remove(self) -> None:
        """When nothing of the engine is left. Again is harmless."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.unlink()
