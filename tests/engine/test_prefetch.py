"""What goes on beside the start of an engine: weights are read ahead."""

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllama.engine import prefetch as module
from vllama.engine.prefetch import beside, file_system, prefetch, prefetch_weights, weight_files

KIB = 2**10


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(offset, length) of each request to the system."""
    requests: list[tuple[int, int]] = []

    def fadvise(_file: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        requests.append((offset, length))

    monkeypatch.setattr(module.os, "posix_fadvise", fadvise)
    return requests


def make_files(folder: Path, **sizes: int) -> list[Path]:
    for name, size in sizes.items():
        (folder / f"{name}.safetensors").write_bytes(bytes(size))
    return weight_files(folder)


def test_files_are_asked_for_piece_by_piece(tmp_path: Path, asked: list[tuple[int, int]]) -> None:
    files = make_files(tmp_path, a=300 * KIB, b=10)
    assert prefetch(files, 10**9, threading.Event()) == 300 * KIB + 10
    assert asked == [(0, 128 * KIB), (128 * KIB, 128 * KIB), (256 * KIB, 44 * KIB), (0, 10)]


@pytest.mark.parametrize(("budget", "expected"), [(0, 0), (5, 5), (200 * KIB, 200 * KIB), (10**9, 400 * KIB)])
def test_not_more_than_the_budget(tmp_path: Path, asked: list[tuple[int, int]], budget: int, expected: int) -> None:
    files = make_files(tmp_path, a=300 * KIB, b=100 * KIB)
    assert prefetch(files, budget, threading.Event()) == expected == sum(length for _, length in asked)


def test_it_ends_when_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(module.os, "posix_fadvise", lambda *_: stop.set())
    assert prefetch(make_files(tmp_path, a=900 * KIB, b=1), 10**9, stop) == 128 * KIB


def test_what_cannot_be_read_is_passed_over(tmp_path: Path, asked: list[tuple[int, int]]) -> None:
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "gone")
    (tmp_path / "b.safetensors").mkdir()
    assert prefetch(make_files(tmp_path, c=7), 10**9, threading.Event()) == 7 == len(asked) * 7
    prefetch_weights(tmp_path / "nowhere", threading.Event())


@pytest.mark.parametrize(("kind", "read"), [("nfs4", 0), ("ext4", 1)])
def test_vllm_itself_reads_ahead_from_network_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[int, int]], kind: str, read: int
) -> None:
    make_files(tmp_path, a=1)
    monkeypatch.setattr(module, "file_system", lambda _: kind)
    prefetch_weights(tmp_path, threading.Event())
    assert len(asked) == read


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [("/", "ext4"), (str(tmp_path), "nfs"), (str(tmp_path / "x"), "xfs"), (f"{tmp_path}-other", "tmpfs")]
    partitions = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in mounts]
    monkeypatch.setattr(module.psutil, "disk_partitions", lambda **_: partitions)
    (tmp_path / "link").symlink_to("/")
    assert file_system(tmp_path / "models") == "nfs"
    assert file_system(tmp_path / "x" / "models") == "xfs"
    assert file_system(tmp_path / "link" / "models") == "ext4"

    def refuse(**_: Any) -> list[Any]:
        raise PermissionError

    monkeypatch.setattr(module.psutil, "disk_partitions", refuse)
    assert file_system(tmp_path) == ""


async def test_work_beside_a_block_ends_with_it() -> None:
    began, ended = threading.Event(), threading.Event()

    def work(stop: threading.Event) -> None:
        began.set()
        stop.wait(10)
        ended.set()

    async with beside(work):
        await asyncio.to_thread(began.wait, 10)
        assert not ended.is_set()
    assert ended.is_set()


async def test_a_disk_that_holds_work_up_does_not_hold_up_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_END_S", 0.01)
    answers = threading.Event()
    async with beside(lambda _stop: assert_set(answers)):
        pass
    answers.set()


def assert_set(event: threading.Event) -> None:
    assert event.wait(10)
