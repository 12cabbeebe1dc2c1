"""GPUs."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vllama.doctor import gpu
from vllama.engine.profile import Profile
from vllama.settings import Settings

GB = 10**9


def nvml(free=60 * GB, processes=(), count=1):
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetCudaDriverVersion_v2=lambda: 13000,
        nvmlSystemGetDriverVersion=lambda: "580.65",
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda _: "NVIDIA H100",
        nvmlDeviceGetCudaComputeCapability=lambda _: (9, 0),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=80 * GB, free=free, used=80 * GB - free),
        nvmlDeviceGetComputeRunningProcesses=lambda _: [
            SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in processes
        ],
    )


def found(monkeypatch, module, profile=None):
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return [
        (finding.check, finding.level.value, finding.found) for finding in gpu.check(Settings(engine_profile=profile))
    ]


def test_what_it_is(monkeypatch):
    said = "NVIDIA H100, compute capability 9.0, 60.0 GB of 80.0 GB free, driver 580.65, which runs CUDA 13.0"
    assert found(monkeypatch, nvml()) == [("GPU 0", "ok", said)]


def test_who_uses_it(monkeypatch):
    monkeypatch.setattr(gpu.psutil.Process, "name", lambda self: "python3")
    mine = os.getpid()
    assert found(monkeypatch, nvml(processes=[(mine, 2 * GB), (2**30, None)]))[1] == (
        "GPU 0", "ok", f"used by process {mine} python3 (2.0 GB), process {2**30} of another container"
    )  # fmt: skip
    assert found(monkeypatch, nvml(10 * GB, [(mine, 70 * GB)]))[1][1] == "warning"
    assert found(monkeypatch, nvml(10 * GB))[1] == ("GPU 0", "warning", "70.0 GB are taken by nobody that can be seen")


def test_what_the_driver_does_not_tell(monkeypatch):
    def refuse(handle):
        raise OSError("Not Supported")

    module = nvml()
    module.nvmlDeviceGetMemoryInfo = module.nvmlDeviceGetComputeRunningProcesses = refuse
    ((_, level, said),) = found(monkeypatch, module)
    assert (level, "compute capability 9.0, memory not told" in said) == ("ok", True)


def test_a_driver_without_gpus(monkeypatch):
    ((_, level, said),) = found(monkeypatch, nvml(count=0))
    assert (level, said) == ("warning", "driver 580.65, which runs CUDA 13.0, but no GPU")


@pytest.mark.parametrize(
    ("device", "profile", "level", "said"),
    [
        (False, None, "ok", "none: models run on the processor"),
        (False, Profile.CUDA, "problem", "none was found"),
        (True, None, "problem", "there is one, but its driver does not answer (Driver/library version mismatch)"),
    ],
)
def test_without_a_driver(monkeypatch, device, profile, level, said):
    def fail():
        raise OSError("Driver/library version mismatch")

    monkeypatch.setattr(Path, "exists", lambda self: device)
    assert found(monkeypatch, SimpleNamespace(nvmlInit=fail), profile) == [("GPU", level, said)]
