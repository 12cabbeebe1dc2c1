"""Processor, memory, limits and disks."""

import contextlib
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from vllama.descriptors import MORE_FILES, most_requests
from vllama.doctor.finding import Finding, ok, problem, warning
from vllama.engine.command import names_any, user_arguments
from vllama.engine.install import Profile, check_machine, detect_profile
from vllama.engine.memory import gigabytes, read_memory
from vllama.engine.standby import ROOM
from vllama.engine.startup import has_compiler
from vllama.errors import InstallError
from vllama.models.hub import cache_folder
from vllama.settings import Settings

_GIB = 2**30
_ENGINE_RAM = 2 * _GIB
"""What vLLM's processes take before there are weights."""
_FILES = 4096
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at only
_SHARED = 64 * 2**20
"""What containers get where nobody asks for more: enough for one GPU, not for several that exchange data."""
_SMALL_DISK, _FULL_DISK = 20 * _GIB, _GIB
_COMPILES = ("-O", "--optimization-level", "-cc", "--compilation-config")
_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 BF16", "amx_tile": "AMX"}


def check(settings: Settings) -> Iterator[Finding]:
    profile = settings.engine_profile or detect_profile()
    yield _system(profile)
    yield _processor(profile)
    yield _memory(settings)
    yield from _shared_memory(settings)
    yield _open_files()
    yield from _compiler(settings, profile)


def _system(profile: Profile) -> Finding:
    found = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    try:
        check_machine(profile)
    except InstallError as error:
        return problem("machine", f"{found}: {error.message}", error.advice)
    return ok("machine", found)


def _processor(profile: Profile) -> Finding:
    cores = len(os.sched_getaffinity(0))
    flags = _processor_flags()
    known = [text for flag, text in _INSTRUCTIONS.items() if flag in flags]
    found = ", ".join([f"{cores} core{'s' if cores > 1 else ''}", *known])
    if profile is Profile.CPU and platform.machine() == "x86_64" and flags and "avx2" not in flags:
        return problem("processor", f"{found}: no AVX2", "without a GPU, vLLM needs it: use another machine")
    return ok("processor", found)


def _processor_flags() -> frozenset[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def _memory(settings: Settings) -> Finding:
    memory = read_memory(Profile.CPU)
    found = f"{gigabytes(memory.total)} of RAM, {gigabytes(memory.free)} free"
    if memory.free < _ENGINE_RAM:
        return problem("memory", found, f"an engine needs {gigabytes(_ENGINE_RAM)} besides its weights: end something")
    if settings.standby and memory.free < ROOM:
        advice = f"engines start slower, as the standby starts with no less than {gigabytes(ROOM)}: end something"
        return warning("memory", found, advice)
    return ok("memory", found)


def _shared_memory(settings: Settings) -> Iterator[Finding]:
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(_SHARED_MEMORY)
        found = f"{_SHARED_MEMORY} has {gigabytes(usage.free)} free"
        several = (settings.tensor_parallel_size or 1) > 1
        if usage.free < _SHARED // 2 or (several and usage.total <= _SHARED):
            yield problem("shared memory", found, "start the container with --shm-size=8g or --ipc=host")
        else:
            yield ok("shared memory", found)


def _open_files() -> Finding:
    """The server raises its own limit as far as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most < _FILES:
        return warning("open files", f"{most} at most", f"for more than {most_requests(most)} requests: {MORE_FILES}")
    return ok("open files", "no limit" if most < 0 else f"{most} at most")


def _compiler(settings: Settings, profile: Profile) -> Iterator[Finding]:
    """For what is compiled when an engine starts: on GPUs Triton's kernels, on a CPU all where that is asked for."""
    asked = settings.startup == "throughput" or names_any(user_arguments(settings), _COMPILES)
    if settings.enforce_eager or (profile is Profile.CPU and not asked):
        return
    if has_compiler():
        yield ok("compiler", os.environ.get("CXX") or "g++")
    else:
        advice = "install one (`apt install g++`), or use --enforce-eager"
        yield (problem if asked else warning)("compiler", "no C++ compiler", advice)


def check_disks(settings: Settings) -> Iterator[Finding]:
    yield _disk("disk", settings.home, "VLLAMA_HOME")
    yield _disk("model cache", cache_folder(), "HF_HOME")


def _disk(name: str, folder: Path, variable: str) -> Finding:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{folder}: {gigabytes(free)} free"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return problem(name, f"{there} cannot be written", f"correct its permissions, or set {variable}")
    if free < _FULL_DISK:
        return problem(name, found, f"make room, or set {variable} to a folder on another disk")
    if free < _SMALL_DISK:
        return warning(name, found, f"large models need more: make room, or set {variable} to another disk")
    return ok(name, found)
