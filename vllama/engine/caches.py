"""What vLLM compiles, kept below `<home>/cache/<vLLM's version>/<weights>`.

A model's folder goes with the model, those of other versions when nothing used them for a month, and the one that was
not used for longest where all are too large together or the disk is full.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("vllama.engine")

_GIB = 2**30
_MOST_BYTES = 20 * _GIB
"""A model's cache has some 100 MB, several times that where it was started in several ways: room for dozens."""
_LEAST_FREE_BYTES = _GIB
"""What compiling one model writes, with room to spare."""
_FORGOTTEN_S = 30 * 86400.0

_SHARED = "modelinfos"
"""What vLLM finds out about an architecture by importing it in another process, some 15 s: not a model's own."""


@dataclass(frozen=True)
class Caches:
    """Everything here reads or writes the disk; a disk that refuses costs only the cache."""

    root: Path
    version: str

    def variables(self, weights: str) -> dict[str, str]:
        """Variables that have vLLM keep what it compiles for these weights. None where there is no room for it.

        Triton's cache is below vLLM's only for what torch compiles, and torch's only where vLLM cuts the graph into
        pieces, which it does not on a CPU.
        """
        folder = self.root / self.version / _key(weights)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)  # the time of its last use
            self._share(folder)
            if not self._has_room():
                logger.warning("the disk of %s is nearly full: what vLLM compiles is not kept", self.root)
                return {}
        except OSError as error:
            logger.warning("what vLLM compiles is not kept in %s (%s)", folder, error.strerror)
            return {}
        return {
            "VLLM_CACHE_ROOT": str(folder),
            "TRITON_CACHE_DIR": str(folder / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        }

    def _share(self, folder: Path) -> None:
        shared = self.root / self.version / _SHARED
        shared.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / _SHARED).symlink_to(Path("..", _SHARED), target_is_directory=True)

    def tidy(self, stop: threading.Event, *, keep: str) -> None:
        """Remove what will hardly be used again, and on a full disk all but one. keep: the weights whose cache stays.

        stop: set to end this early.
        """
        kept = self.root / self.version / _key(keep)
        with contextlib.suppress(OSError):
            most, total = _MOST_BYTES if self._has_room() else 0, 0
            for used, folder in sorted(self._folders(), reverse=True):
                if stop.is_set():
                    return
                total += _size(folder)
                is_forgotten = folder.parent.name != self.version and used < time.time() - _FORGOTTEN_S
                if folder != kept and (is_forgotten or total > most):
                    shutil.rmtree(folder, ignore_errors=True)
            self._remove_empty_versions()

    def _has_room(self) -> bool:
        return shutil.disk_usage(self.root).free >= _LEAST_FREE_BYTES

    def _folders(self) -> Iterator[tuple[float, Path]]:
        """Each model's, with the time of its last use."""
        for folder in self.root.glob("*/*"):
            if folder.name != _SHARED:
                with contextlib.suppress(OSError):
                    yield folder.stat().st_mtime, folder

    def _remove_empty_versions(self) -> None:
        for version in self.root.glob("*"):
            if version.name != self.version and {entry.name for entry in version.glob("*")} <= {_SHARED}:
                shutil.rmtree(version, ignore_errors=True)


def forget(root: Path, weights: str) -> None:
    """Remove what any version of vLLM compiled for these weights. root: of the caches."""
    for folder in root.glob(f"*/{_key(weights)}"):
        shutil.rmtree(folder, ignore_errors=True)


def _key(weights: str) -> str:
    """A folder's name. weights: as a model names them."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", weights).strip("-.")[-40:]
    return f"{name}-{hashlib.sha256(weights.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _size(folder: Path) -> int:
    found = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118
    return found
