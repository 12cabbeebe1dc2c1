"""NVIDIA GPUs: what they are, and who uses them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from vllama.doctor.finding import Finding, ok, problem, warning
from vllama.engine.memory import gigabytes
from vllama.engine.profile import Profile
from vllama.settings import Settings

_NAME = "GPU"
_MUCH = 0.5
"""Of a GPU's memory, which others take."""


def check(settings: Settings) -> Iterator[Finding]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:
        yield _without(settings, str(error))
        return
    try:
        yield from _look(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _without(settings: Settings, reason: str) -> Finding:
    if Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia").exists():
        advice = "see what `nvidia-smi` says; after an update of the driver, restart the machine"
        return problem(_NAME, f"there is one, but its driver does not answer ({reason})", advice)
    if settings.engine_profile is Profile.CUDA:
        return problem(_NAME, "none was found", "install NVIDIA's driver, or use --profile cpu")
    return ok(_NAME, "none: models run on the processor")


def _look(nvml: Any) -> Iterator[Finding]:
    cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
    driver = f"driver {nvml.nvmlSystemGetDriverVersion()}, which runs CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    count = nvml.nvmlDeviceGetCount()
    if not count:
        yield warning(_NAME, f"{driver}, but no GPU", "let the container see them: `docker run --gpus all`")
    for index in range(count):
        yield from _look_at(nvml, nvml.nvmlDeviceGetHandleByIndex(index), f"{_NAME} {index}", driver)


def _look_at(nvml: Any, handle: Any, name: str, driver: str) -> Iterator[Finding]:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    free = f"{gigabytes(memory.free)} of {gigabytes(memory.total)} free" if memory is not None else "memory not told"
    yield ok(name, f"{nvml.nvmlDeviceGetName(handle)}, compute capability {major}.{minor}, {free}, {driver}")
    users = list(_users(nvml, handle))
    taken = f"used by {', '.join(users)}" if users else ""
    if memory is not None and memory.free < _MUCH * memory.total:
        advice = "models that do not fit beside them wait: end what you do not need"
        yield warning(name, taken or f"{gigabytes(memory.used)} are taken by nobody that can be seen", advice)
    elif taken:
        yield ok(name, taken)


def _users(nvml: Any, handle: Any) -> Iterator[str]:
    for process in _ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
        size = f" ({gigabytes(process.usedGpuMemory)})" if process.usedGpuMemory else ""
        name = "of another container"
        with contextlib.suppress(psutil.Error):
            name = psutil.Process(process.pid).name()
        yield f"process {process.pid} {name}{size}"


def _ask(function: Callable[[Any], Any], handle: Any) -> Any:
    """None where the driver does not tell: of GPUs that share the machine's RAM, or are virtual."""
    with contextlib.suppress(Exception):
        return function(handle)
    return None
