"""Which machines an engine can be installed on."""

import shutil
import struct
import sys
from types import SimpleNamespace

import pytest

from vllama.engine import _host
from vllama.engine._host import Gpu, Nvidia, check_host, check_space, detect_profile, read_nvidia
from vllama.engine.profile import Profile
from vllama.errors import InstallError

RANGE = ">=3.11,<3.15"


def fake_nvml(gpus, cuda=13000, broken=None):
    """A module like pynvml. gpus: names and compute capabilities. broken: name of a function that fails."""

    def fail(*arguments):
        raise OSError("no libnvidia-ml")

    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda index: gpus[index],
        nvmlDeviceGetName=lambda gpu: gpu[0],
        nvmlDeviceGetCudaComputeCapability=lambda gpu: gpu[1],
        nvmlSystemGetCudaDriverVersion_v2=lambda: cuda,
    )
    if broken:
        setattr(nvml, broken, fail)
    return nvml


@pytest.fixture
def linux(monkeypatch):
    """A machine on which everything is fine."""
    monkeypatch.setattr(_host.platform, "system", lambda: "Linux")
    monkeypatch.setattr(_host.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(_host.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(_host.sysconfig, "get_config_var", {"HOST_GNU_TYPE": "x86_64-pc-linux-gnu"}.get)
    monkeypatch.setattr(_host.sys, "version_info", (3, 13, 1))


def test_detects_cuda(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([("RTX 4090", (8, 9))], cuda=13020))
    assert detect_profile() is Profile.CUDA
    assert read_nvidia() == Nvidia((Gpu("RTX 4090", (8, 9)),), (13, 2))


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetName", "nvmlShutdown"])
def test_broken_nvml_means_cpu(monkeypatch, broken):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([("RTX 4090", (8, 9))], broken=broken))
    assert detect_profile() is Profile.CPU


def test_missing_nvml_means_cpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert detect_profile() is Profile.CPU
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([]))
    assert detect_profile() is Profile.CPU


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 5), (3, 14, 9)])
def test_good_hosts(linux, monkeypatch, version):
    monkeypatch.setattr(_host.sys, "version_info", version)
    check_host(Profile.CPU, RANGE)


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        ("platform", "system", lambda: "Windows", "vLLM has no wheels for Windows: run vllama inside WSL 2 or a Linux"),
        ("platform", "system", lambda: "Darwin", "vLLM has no wheels for macOS: run vllama on Linux, or set VLLAMA_EN"),
        (
            "platform",
            "machine",
            lambda: "riscv64",
            "vLLM has no wheels for riscv64: use 64-bit Linux on x86_64 or aarc",
        ),
        ("struct", "calcsize", lambda _: 4, "vLLM has no wheels for a 32-bit Python on x86_64: use 64-bit Linux"),
        (
            "sysconfig",
            "get_config_var",
            {"HOST_GNU_TYPE": "x86_64-alpine-linux-musl"}.get,
            "vLLM has no wheels for musl",
        ),
        (
            "platform",
            "libc_ver",
            lambda: ("glibc", "2.17"),
            "vLLM needs glibc 2.28 and this system has 2.17: use a newer",
        ),
    ],
)
def test_unsupported_platforms(linux, monkeypatch, module, name, value, message):
    monkeypatch.setattr(getattr(_host, module), name, value)
    with pytest.raises(InstallError) as raised:
        check_host(Profile.CPU, RANGE)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_pointer_size_is_real():
    assert struct.calcsize("P") in (4, 8)


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 15, 0), (4, 0, 0)])
def test_wrong_python(linux, monkeypatch, version):
    monkeypatch.setattr(_host.sys, "version_info", version)
    with pytest.raises(InstallError) as raised:
        check_host(Profile.CPU, RANGE)
    assert str(raised.value) == (
        f"vLLM runs on CPython 3.11 to 3.14, and vllama runs on CPython {version[0]}.{version[1]}: "
        "install vllama with another Python, for example `uv tool install --python 3.14 vllama`"
    )


def test_other_interpreters(linux, monkeypatch):
    monkeypatch.setattr(_host.sys, "implementation", SimpleNamespace(name="pypy"))
    with pytest.raises(InstallError, match=r"vllama runs on Pypy 3\.13"):
        check_host(Profile.CPU, RANGE)
    monkeypatch.setattr(_host.sys, "implementation", SimpleNamespace(name="cpython"))
    monkeypatch.setattr(_host.sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
    with pytest.raises(InstallError, match=r"runs on the free-threaded CPython 3\.13"):
        check_host(Profile.CPU, RANGE)


@pytest.mark.parametrize(
    ("gpus", "cuda", "message"),
    [
        ([], 13000, "no NVIDIA GPU was found: install NVIDIA's driver (`nvidia-smi` shows it), or use --profile cpu"),
        ([("RTX 4090", (8, 9))], 12080, "the NVIDIA driver runs CUDA 12.8 and vLLM needs 13.0: update the driver to "),
        (
            [("GTX 1080", (6, 1))],
            13000,
            "the GTX 1080 has compute capability 6.1 and vLLM needs 7.5: use --profile cpu",
        ),
    ],
)
def test_gpus_that_do_not_do(linux, monkeypatch, gpus, cuda, message):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(gpus, cuda))
    with pytest.raises(InstallError) as raised:
        check_host(Profile.CUDA, RANGE)
    assert str(raised.value).startswith(message)


def test_one_good_gpu_is_enough(linux, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([("GTX 1080", (6, 1)), ("RTX 2080", (7, 5))], 13000))
    check_host(Profile.CUDA, RANGE)


@pytest.mark.parametrize(("profile", "needed"), [(Profile.CPU, 4), (Profile.CUDA, 15)])
def test_space(tmp_path, monkeypatch, profile, needed):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed * 1024**3))
    check_space(tmp_path, profile)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1.5 * 1024**3))
    with pytest.raises(InstallError) as raised:
        check_space(tmp_path, profile)
    assert str(raised.value) == (
        f"the disk of {tmp_path} has 1.5 GiB free and the engine needs {needed}: "
        "make room, or set VLLAMA_HOME to a folder on another disk"
    )
