"""What the processes of a relay use."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Usage:
    """cpu: seconds, of the user's and the system's. resident: bytes."""

    cpu: float = 0.0
    resident: int = 0


def usage(pid: int) -> Usage:
    """Of a process and all below it since they began; uv, which waits for what it has started, is left out."""
    if not pid:
        return Usage()
    cpu, resident = 0.0, 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() != "uv":
                cpu += _cpu(process)
                resident += process.memory_info().rss
    return Usage(cpu, resident)


def _cpu(process: psutil.Process) -> float:
    """By the scheduler's count in nanoseconds where the kernel tells it: the clock of the other is one of 10 ms."""
    tasks = Path(f"/proc/{process.pid}/task")
    with contextlib.suppress(OSError):
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)
