"""Reading a model's weights into the page cache while its engine still imports what it runs on."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

Work = Callable[[threading.Event], None]
"""What a thread does until it is done, or soon after the event is set."""

_CHUNK_BYTES = 128 * 2**10
"""So much is asked for at a time: of a larger request Linux drops what exceeds its read-ahead, this at least."""
_END_S = 5.0
_NETWORK = ("nfs", "nfs4", "lustre")
"""File systems from which vLLM reads ahead itself, in several threads."""


def weight_files(folder: Path) -> list[Path]:
    """Those of a model folder, in the order in which vLLM reads them."""
    return sorted(folder.glob("*.safetensors"))


def prefetch(files: Sequence[Path], budget: int, stop: threading.Event) -> int:
    """Have the system read files from the disk, up to `budget` bytes. Returns for how many it was asked.

    A file that cannot be read is passed over: it is vLLM that says what is wrong with it.
    """
    asked = 0
    for path in files:
        with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
            size = min(os.fstat(file.fileno()).st_size, budget - asked)
            for offset in range(0, size, _CHUNK_BYTES):
                if stop.is_set():
                    return asked
                length = min(_CHUNK_BYTES, size - offset)
                os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_WILLNEED)
                asked += length
    return asked


def prefetch_weights(folder: Path, stop: threading.Event) -> None:
    """As much of a model's weights as half of the available memory holds: the engine needs some, too."""
    if file_system(folder) not in _NETWORK:
        prefetch(weight_files(folder), psutil.virtual_memory().available // 2, stop)


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, "" where the system does not tell."""
    real = os.path.realpath(path)
    with contextlib.suppress(OSError):
        mounts = psutil.disk_partitions(all=True)
        above = [mount for mount in mounts if os.path.commonpath((real, mount.mountpoint)) == mount.mountpoint]
        return max(above, key=lambda mount: len(mount.mountpoint)).fstype if above else ""
    return ""


@contextlib.asynccontextmanager
async def beside(work: Work) -> AsyncIterator[None]:
    """Have a thread do some work during the block, and end with it, or soon after where a disk holds it up."""
    stop = threading.Event()
    executor = ThreadPoolExecutor(1, thread_name_prefix="beside")  # the shared one may be busy, and this one takes long
    done = asyncio.get_running_loop().run_in_executor(executor, work, stop)
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait({done}, timeout=_END_S)
        executor.shutdown(wait=False)
