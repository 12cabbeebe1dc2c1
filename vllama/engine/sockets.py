"""The private folders in which engines' sockets lie: each locked by the gateway that lives with it."""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vllama.errors import ConfigError

_MAX_SOCKET_PATH = 107
"""Bytes; a Unix socket's path cannot be longer (`sun_path` in unix(7))."""
_PREFIX = "vllama-"
_LOCK = "lock"


class SocketFolder:
    """A folder that only this user can enter, short enough for a socket in it. Raises ConfigError where there is none.

    Those of gateways that crashed are removed on the way.
    """

    def __init__(self) -> None:
        _sweep()
        self.path, self._lock = _make()
        self._count = 0

    def socket(self) -> Path:
        """A new name for each start: the socket of an engine that was killed stays behind."""
        if not (self.path / _LOCK).exists():  # what tidies up temporary folders took it for forgotten
            tidied, (self.path, self._lock) = self._lock, _make()
            os.close(tidied)
        self._count += 1
        return self.path / f"{self._count}.sock"

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _parents() -> Iterator[Path]:
    """Where such a folder may be."""
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if parent and len(os.fsencode(parent)) + len("/vllama-12345678/123456.sock") <= _MAX_SOCKET_PATH:
            yield Path(parent)


def _make() -> tuple[Path, int]:
    for parent in _parents():
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            # Locked before it has its name, so that nobody finds it free.
            unnamed = folder / f".{_LOCK}"
            lock = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            unnamed.rename(folder / _LOCK)
            return folder, lock
    raise ConfigError(
        "there is no folder for the engine's socket", "make the temporary folder writable, or use --vllm-port"
    )


def _sweep() -> None:
    for parent in dict.fromkeys(_parents()):
        with contextlib.suppress(OSError):
            for folder in parent.glob(f"{_PREFIX}*"):
                _remove_abandoned(folder)


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder of ours whose lock nobody holds; what is no such folder is left alone."""
    with contextlib.suppress(OSError):
        seen = folder.lstat()
        if seen.st_uid != os.geteuid() or not stat.S_ISDIR(seen.st_mode):
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)
