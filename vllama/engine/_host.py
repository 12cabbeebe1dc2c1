"""What the machine is: its GPUs, and whether vLLM's wheels run on it."""

import platform
import re
import shutil
import struct
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.engine.profile import Profile
from vllama.errors import InstallError

_GIB = 1024**3
_OWN_ENVIRONMENT = "set VLLAMA_ENGINE_PYTHON to an environment with a vLLM that you built"

# vLLM's wheels are tagged manylinux_2_28 for these processors.
_MACHINES = ("x86_64", "aarch64")
_GLIBC = (2, 28)

# The CUDA wheel on PyPI links libcudart.so.13, and CUDA 13 ended at Turing.
_CUDA = (13, 0)
_CAPABILITY = (7, 5)


_NEEDED_GIB = {Profile.CPU: 4, Profile.CUDA: 15}


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as NVML sees it."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Nvidia:
    """The NVIDIA GPUs of this machine and the newest CUDA that their driver runs."""

    gpus: tuple[Gpu, ...] = ()
    cuda: tuple[int, int] = (0, 0)


def detect_profile() -> Profile:
    """CUDA where NVML finds a GPU. Never raises."""
    return Profile.CUDA if read_nvidia().gpus else Profile.CPU


def read_nvidia() -> Nvidia:
    """Ask NVML; no GPUs where it is missing or fails in any way."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return _query(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # a broken driver fails in ways that NVMLError does not cover
        return Nvidia()


def _query(nvml: Any) -> Nvidia:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    gpus = tuple(
        Gpu(str(nvml.nvmlDeviceGetName(handle)), tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)))
        for handle in handles
    )
    cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
    return Nvidia(gpus, (cuda // 1000, cuda % 1000 // 10))


def check_host(profile: Profile, requires_python: str) -> None:
    """Raise `InstallError` where vLLM's wheels cannot run.

    requires_python: a specifier such as ">=3.11,<3.15".
    """
    _check_platform()
    _check_python(requires_python)
    if profile is Profile.CUDA:
        _check_nvidia(read_nvidia())


def _check_platform() -> None:
    system = platform.system()
    if system != "Linux":
        name = {"Darwin": "macOS"}.get(system, system)
        where = "inside WSL 2 or a Linux container" if system == "Windows" else "on Linux"
        raise InstallError(f"vLLM has no wheels for {name}", f"run vllama {where}, or {_OWN_ENVIRONMENT}")
    machine = platform.machine()
    if struct.calcsize("P") != 8 or machine not in _MACHINES:
        bits = "a 32-bit Python on " if struct.calcsize("P") != 8 else ""
        raise InstallError(
            f"vLLM has no wheels for {bits}{machine}",
            f"use 64-bit Linux on {' or '.join(_MACHINES)}, or {_OWN_ENVIRONMENT}",
        )
    if "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")):
        advice = f"use a distribution with glibc (Debian, Ubuntu, Fedora ...), or {_OWN_ENVIRONMENT}"
        raise InstallError("vLLM has no wheels for musl (Alpine)", advice)
    glibc = _numbers(platform.libc_ver()[1])
    if glibc and glibc < _GLIBC:
        raise InstallError(
            f"vLLM needs glibc {_dotted(_GLIBC)} and this system has {_dotted(glibc)}", "use a newer distribution"
        )


def _check_python(requires: str) -> None:
    version = sys.version_info[:2]
    lowest, above = (_numbers(bound) for bound in re.findall(r"[<>]=?\s*([\d.]+)", requires))
    if lowest <= version < above and sys.implementation.name == "cpython" and not _is_free_threaded():
        return
    kind = "the free-threaded CPython" if _is_free_threaded() else sys.implementation.name.capitalize()
    kind = kind.replace("Cpython", "CPython")
    newest = f"{above[0]}.{above[1] - 1}"
    raise InstallError(
        f"vLLM runs on CPython {_dotted(lowest)} to {newest}, and vllama runs on {kind} {_dotted(version)}",
        f"install vllama with another Python, for example `uv tool install --python {newest} vllama`",
    )


def _is_free_threaded() -> bool:
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def _check_nvidia(nvidia: Nvidia) -> None:
    if not nvidia.gpus:
        raise InstallError(
            "no NVIDIA GPU was found", "install NVIDIA's driver (`nvidia-smi` shows it), or use --profile cpu"
        )
    if nvidia.cuda < _CUDA:
        raise InstallError(
            f"the NVIDIA driver runs CUDA {_dotted(nvidia.cuda)} and vLLM needs {_dotted(_CUDA)}",
            "update the driver to version 580 or newer, or use --profile cpu",
        )
    best = max(nvidia.gpus, key=lambda gpu: gpu.capability)
    if best.capability < _CAPABILITY:
        raise InstallError(
            f"the {best.name} has compute capability {_dotted(best.capability)} and vLLM needs {_dotted(_CAPABILITY)}",
            "use --profile cpu",
        )


def check_space(folder: Path, profile: Profile) -> None:
    """Raise `InstallError` where an environment of `profile` would not fit into `folder`."""
    needed, free = needed_gib(profile), shutil.disk_usage(folder).free / _GIB
    if free < needed:
        raise InstallError(
            f"the disk of {folder} has {free:.1f} GiB free and the engine needs {needed}",
            "make room, or set VLLAMA_HOME to a folder on another disk",
        )


def needed_gib(profile: Profile) -> int:
    """What an environment takes while it is built."""
    return _NEEDED_GIB[profile]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
