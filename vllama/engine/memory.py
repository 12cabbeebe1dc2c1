"""The memory plan: what there is for engines, and what one model's engine is to have of it."""

import contextlib
import math
import os
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vllama.engine.command import Launch, cpu_cache_gib, names_any
from vllama.engine.footprint import GIB, Footprint
from vllama.engine.profile import Profile
from vllama.errors import DoesNotFitError
from vllama.scheduling.plan import Demand, shortage

_RESERVE = 0.08
"""Of a GPU's memory, which no engine gets: vLLM's own default leaves as much (gpu_memory_utilization 0.92)."""
_RAM_RESERVE = 0.05
_CONTEXTS = 4
"""Full ones at once, for an engine to run well."""
_ROOM = 5 * GIB // 2
"""Left beside a model that could use all: an embedder and its engine."""
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes of the GPUs that one engine uses (of RAM, on a CPU): all of it, and what nobody uses now.

    usable: of all of it, what engines may take. gpus: how many; 0 on a CPU. visible: of how many there are.
    """

    total: int
    free: int
    usable: int
    gpus: int
    visible: int = 0

    @property
    def kind(self) -> str:
        return "GPU memory" if self.gpus else "RAM"


def read_memory(profile: Profile, gpus: int = 1) -> Memory:
    """gpus: over how many an engine is split. Blocks for some milliseconds: a thread's work.

    Where NVML cannot tell, as on machines whose GPU shares the RAM, it is the RAM.
    """
    if profile is Profile.CUDA:
        with contextlib.suppress(Exception):  # a broken driver fails in ways that NVMLError does not cover
            return _read_gpus(gpus)
    total, free = _read_ram()
    reserve = math.ceil(total * _RAM_RESERVE)
    return Memory(total, max(0, free - reserve), total - reserve, 0)


def most_engines(profile: Profile) -> int:
    """How many there may be at once where nobody said it, as with Ollama: three for each GPU, three on a CPU."""
    return 3 * max(1, read_memory(profile).visible)


def _read_gpus(count: int) -> Memory:
    """Of GPUs that differ, the smallest bounds all: vLLM splits evenly."""
    import pynvml

    pynvml.nvmlInit()
    try:
        visible = _visible_gpus(pynvml)
        found = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in visible[:count]]
    finally:
        pynvml.nvmlShutdown()
    total = len(found) * min(int(memory.total) for memory in found)
    free = len(found) * min(int(memory.free) for memory in found)
    reserve = math.ceil(total * _RESERVE)
    return Memory(total, max(0, free - reserve), total - reserve, len(found), len(visible))


def _visible_gpus(nvml: Any) -> list[Any]:
    """NVML's handles of the GPUs that an engine will see, in its order: numbers or (beginnings of) UUIDs.

    NVML numbers GPUs by their slots, CUDA the fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID: the same where all
    are alike.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return handles
    visible = []
    for name in filter(None, map(str.strip, named.split(","))):
        if name.isdecimal():
            visible.append(handles[int(name)])
        elif name.startswith("MIG-"):
            visible.append(nvml.nvmlDeviceGetHandleByUUID(name))
        else:
            visible.append(next(one for one in handles if str(nvml.nvmlDeviceGetUUID(one)).startswith(name)))
    return visible


def _read_ram() -> tuple[int, int]:
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    for limit, used in _cgroup_limits():
        total, free = min(total, limit), min(free, max(0, limit - used))
    return total, free


def _cgroup_limits() -> list[tuple[int, int]]:
    """Limits that containers and services set, with what is used of each without the cache of files."""
    found = []
    for folder in _cgroup_folders():
        for names in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):  # no such file, or the limit is `max`
                limit, used = (int((folder / name).read_text()) for name in names[:2])
                found.append((limit, used - _statistic(folder, names[2])))
    return found


def _cgroup_folders() -> list[Path]:
    """Those of this process and all above it, of version 2 and of version 1's memory controller."""
    folders = [_CGROUPS, _CGROUPS / "memory"]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                inner = _CGROUPS / controllers / path.lstrip("/")
                folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(_CGROUPS)]
    return list(dict.fromkeys(folders))


def _statistic(folder: Path, name: str) -> int:
    lines = (folder / "memory.stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)


def plan(needs: Footprint, most: int) -> Demand:
    """What an engine on a GPU is to have. most: what all engines may take together.

    A model that generates has use for as much cache as there is, for more sequences at once: it is given what several
    full contexts take and on a large GPU more, so that two such models fit. Beside them is room for an embedder, unless
    the model runs only without.
    """
    whole = max(needs.minimum, needs.fixed + needs.cache(needs.context))
    if not needs.generates:
        return Demand(needs.minimum, whole, whole)
    several = max(needs.fixed + _CONTEXTS * needs.cache(needs.context), (most - _ROOM) // 2)
    useful = max(needs.minimum, min(several, most - _ROOM))
    return Demand(needs.minimum, min(whole, useful), useful)


def plan_on_cpu(needs: Footprint, most: int, given: int | None) -> Demand:
    """What an engine on a CPU is to have, with a cache of whole GiB. given: how many, where the user said it."""
    if given is not None:
        return Demand.exactly(needs.fixed + given * GIB)
    minimum = needs.fixed + _whole_gib(needs.minimum - needs.fixed)
    several = _whole_gib((_CONTEXTS if needs.generates else 1) * needs.cache(needs.context))
    useful = max(minimum, needs.fixed + min(several, GIB * cpu_cache_gib(most)))
    return Demand(minimum, min(useful, needs.fixed + _whole_gib(needs.cache(needs.context))), useful)


def _whole_gib(size: int) -> int:
    return max(1, math.ceil(size / GIB)) * GIB


def share_launch(share: int, memory: Memory, needs: Footprint, user: Sequence[str]) -> Launch:
    """How vLLM is told to take so many bytes, unless the user said how many.

    On a GPU a fraction of all of it, which bounds weights, activations and cache alike; on a CPU the cache alone.
    """
    if not memory.gpus:
        return Launch(variables={"VLLM_CPU_KVCACHE_SPACE": str(max(1, (share - needs.fixed) // GIB))})
    if names_any(user, ("--gpu-memory-utilization", "--kv-cache-memory-bytes")):
        return Launch()
    return Launch(("--gpu-memory-utilization", f"{math.floor(1000 * share / memory.total) / 1000:g}"))


def check_fits(
    name: str, needs: Footprint, demand: Demand, most: int, memory: Memory, sibling: Callable[[], str | None]
) -> None:
    """Raise DoesNotFitError, with the numbers and what to do, where not even the minimum is there.

    most: what there is for it. sibling: names a quantised form of the model, where one is known.
    """
    if demand.minimum <= most:
        return
    attempts = [sibling()]
    if needs.asked and (longest := needs.longest(most)):
        attempts.append(f"--max-model-len {longest}")
    if (gpus := _gpus_that_hold(demand.minimum, most, memory)) is not None:
        attempts.append(f"--tensor-parallel-size {gpus}")
    raise DoesNotFitError(
        f"{name} {shortage(demand.minimum, most, memory.kind)}",
        f"try {' or '.join(filter(None, attempts)) or 'a smaller or quantised model'}",
    )


def _gpus_that_hold(minimum: int, most: int, memory: Memory) -> int | None:
    """How many, where the machine has so many: twice as many as now, four times ..."""
    powers = (memory.gpus << power for power in range(1, 4))
    return next((gpus for gpus in powers if 0 < gpus <= memory.visible and minimum <= most * gpus // memory.gpus), None)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def pss(pid: int) -> int:
    """Bytes of RAM that a process holds, files apart: of what several share, each its part. 0 where it is gone."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kinds = ("Pss_Anon:", "Pss_Shmem:")
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kinds))
    with contextlib.suppress(OSError, ValueError):  # a kernel that does not tell who shares what, as gVisor's
        _, held, shared = (int(pages) for pages in Path(f"/proc/{pid}/statm").read_text().split()[:3])
        return (held - shared) * resource.getpagesize()
    return 0
