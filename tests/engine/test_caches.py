"""Where vLLM keeps what it compiles, and what of it is removed."""

import errno
import os
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from vllama.engine import caches as module
from vllama.engine.caches import Caches, forget

DAY = 86400.0
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def caches(tmp_path: Path) -> Caches:
    return Caches(tmp_path / "cache", "0.32.0")


def used(caches: Caches, weights: str, days: float = 0, size: int = 10) -> Path:
    """A model's folder with something in it."""
    folder = Path(caches.variables(weights)["VLLM_CACHE_ROOT"])
    (folder / "torch_compile_cache").mkdir()
    (folder / "torch_compile_cache" / "graph").write_bytes(bytes(size))
    os.utime(folder, (0, time.time() - days * DAY))
    return folder


def tidy(caches: Caches, keep: str = "other") -> None:
    caches.tidy(threading.Event(), keep=keep)


def test_each_models_own_folder(caches: Caches) -> None:
    variables = caches.variables("Qwen/Qwen3-0.6B")
    folder = Path(variables["VLLM_CACHE_ROOT"])
    assert folder.is_dir()
    assert folder.parent == caches.root / "0.32.0"
    assert folder.name.startswith("Qwen-Qwen3-0.6B-")
    assert set(variables) == {"VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"}
    assert all(path.startswith(str(folder)) for path in variables.values())
    assert caches.variables("Qwen/Qwen3-0.6B") == variables
    others = ["Qwen-Qwen3-0.6B", "/models/Qwen3", "/" + "long/" * 100, "..", "a\udcff\n"]
    names = {Path(caches.variables(weights)["VLLM_CACHE_ROOT"]).name for weights in others}
    assert len(names) == len(others)
    assert all(len(name) < 60 for name in names)


def test_what_is_known_of_an_architecture_is_shared(caches: Caches) -> None:
    first, second = (Path(caches.variables(weights)["VLLM_CACHE_ROOT"]) for weights in "ab")
    (first / "modelinfos" / "qwen3.json").write_text("{}")
    assert (second / "modelinfos" / "qwen3.json").read_text() == "{}"


def test_a_start_is_a_use(caches: Caches) -> None:
    folder = used(caches, "a", days=99)
    caches.variables("a")
    assert folder.stat().st_mtime > time.time() - 60


@pytest.mark.parametrize("problem", ["full", "read-only", "a file in its place"])
def test_a_disk_that_refuses_costs_only_the_cache(
    caches: Caches, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    if problem == "full":
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(1, 1, 1000))
    elif problem == "read-only":
        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        caches.root.write_text("")
    assert caches.variables("a") == {}
    tidy(caches)
    assert len(caplog.records) == 1


def test_what_other_versions_left_goes_after_a_month(caches: Caches) -> None:
    old = Caches(caches.root, "0.31.0")
    forgotten, recent, own = used(old, "a", days=31), used(old, "b", days=29), used(caches, "a", days=31)
    tidy(caches)
    assert [folder.exists() for folder in (forgotten, recent, own)] == [False, True, True]
    os.utime(recent, (0, 0))
    tidy(caches)
    assert not recent.parent.exists()
    assert (own / "torch_compile_cache" / "graph").exists()


def test_the_longest_unused_go_where_all_are_too_large(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 60)
    folders = [used(caches, name, days, size=25) for name, days in (("a", 3), ("b", 1), ("c", 2), ("d", 4))]
    tidy(caches, keep="d")
    assert [folder.exists() for folder in folders] == [False, True, True, True]
    assert (caches.root / "0.32.0" / "modelinfos").is_dir()


def test_on_a_full_disk_only_that_of_the_started_model_stays(caches: Caches, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [used(caches, name) for name in "ab"]
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(1, 1, 1000))
    tidy(caches, keep="b")
    assert [folder.exists() for folder in folders] == [False, True]


def test_tidying_ends_when_told_to(caches: Caches) -> None:
    folder = used(Caches(caches.root, "0.31.0"), "a", days=31)
    stop = threading.Event()
    stop.set()
    caches.tidy(stop, keep="other")
    assert folder.exists()


def test_a_models_caches_go_with_it(caches: Caches) -> None:
    old = Caches(caches.root, "0.31.0")
    kept, *gone = used(caches, "b"), used(caches, "a"), used(old, "a")
    forget(caches.root, "a")
    assert kept.exists()
    assert not any(folder.exists() for folder in gone)
    shutil.rmtree(caches.root)
    forget(caches.root, "a")
