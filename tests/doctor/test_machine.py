"""Processor, memory, limits, disks."""

import os
import resource
import shutil
from types import SimpleNamespace

import pytest

from vllama.doctor import machine
from vllama.engine.install import Profile
from vllama.engine.memory import Memory
from vllama.errors import InstallError
from vllama.settings import Settings

GIB = 2**30


def settings(**more):
    return Settings(engine_profile="cpu", **more)


def by_name(findings):
    return {finding.check: finding for finding in findings}


@pytest.fixture
def flags(monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")

    def set_flags(*flags):
        monkeypatch.setattr(machine, "_processor_flags", lambda: frozenset(flags))

    return set_flags


@pytest.mark.parametrize(
    ("has", "level", "words"),
    [
        ((), "ok", "core"),
        (("sse",), "problem", "no AVX2"),
        (("avx2",), "ok", "AVX2"),
        (("avx2", "avx512f", "avx512_bf16", "amx_tile"), "ok", "AVX2, AVX-512, AVX-512 BF16, AMX"),
    ],
)
def test_the_processor(flags, has, level, words):
    flags(*has)
    finding = by_name(machine.check(settings()))["processor"]
    assert finding.level == level
    assert words in finding.found


def test_a_machine_that_vllm_does_not_run_on(monkeypatch):
    def refuse(profile):
        raise InstallError("vLLM has no wheels for macOS", "use Linux")

    monkeypatch.setattr(machine, "check_machine", refuse)
    found = by_name(machine.check(settings()))
    assert (found["machine"].level, found["machine"].advice) == ("problem", "use Linux")
    assert "memory" in found


@pytest.mark.parametrize(
    ("free", "standby", "level"), [(1, True, "problem"), (2.5, True, "warning"), (2.5, False, "ok"), (4, True, "ok")]
)
def test_memory(monkeypatch, free, standby, level):
    there = Memory(8 * GIB, int(free * GIB), 8 * GIB, 0)
    monkeypatch.setattr(machine, "read_memory", lambda profile: there)
    finding = by_name(machine.check(settings(standby=standby)))["memory"]
    assert finding.level == level
    assert finding.found == f"8.6 GB of RAM, {free * GIB / 1e9:.1f} GB free"


@pytest.mark.parametrize(
    ("total", "free", "gpus", "level"),
    [(GIB, GIB, 2, "ok"), (2**26, 2**26, 1, "ok"), (2**26, 2**20, 1, "problem"), (2**26, 2**26, 2, "problem")],
)
def test_shared_memory(monkeypatch, total, free, gpus, level):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=total, free=free))
    assert by_name(machine.check(settings(tensor_parallel_size=gpus)))["shared memory"].level == level


@pytest.mark.parametrize(("hard", "level"), [(1024, "warning"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_open_files(monkeypatch, hard, level):
    """The soft limit is raised to the hard one by the server itself."""
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (256, hard))
    assert by_name(machine.check(settings()))["open files"].level == level


@pytest.mark.parametrize(
    ("more", "compiler", "level"),
    [
        ({}, False, None),
        ({"startup": "throughput"}, False, "problem"),
        ({"vllm_args": ["-O2"]}, False, "problem"),
        ({"startup": "throughput"}, True, "ok"),
        ({"engine_profile": "cuda"}, False, "warning"),
    ],
)
def test_the_compiler(monkeypatch, more, compiler, level):
    monkeypatch.setattr(machine, "check_machine", lambda profile: None)
    monkeypatch.setattr(machine, "has_compiler", lambda: compiler)
    found = by_name(machine.check(Settings(**{"engine_profile": Profile.CPU, **more}))).get("compiler")
    assert (found and found.level) == level


@pytest.mark.parametrize(("free", "level"), [(100, "ok"), (5, "warning"), (0.5, "problem")])
def test_disks(monkeypatch, tmp_path, free, level):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**12, free=int(free * GIB)))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    disk, cache = machine.check_disks(settings(home=tmp_path / "not" / "there"))
    assert (disk.level, cache.level) == (level, level)
    assert disk.found.startswith(f"{tmp_path}/not/there: ")


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    disk, _ = machine.check_disks(settings(home=tmp_path))
    assert disk.level == "problem"
    assert disk.found == f"{tmp_path} cannot be written"
