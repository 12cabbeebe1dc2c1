"""Folders for sockets: private, locked as long as their gateway lives, and removed after it."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllama.engine.sockets import SocketFolder
from vllama.errors import ConfigError


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place for such folders."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_each_start_has_a_new_socket_in_a_private_folder(runtime: Path) -> None:
    folder = SocketFolder()
    sockets = [folder.socket() for _ in range(3)]
    assert [path.name for path in sockets] == ["1.sock", "2.sock", "3.sock"]
    assert {path.parent for path in sockets} == {folder.path}
    assert (folder.path.parent, stat.S_IMODE(folder.path.stat().st_mode)) == (runtime, 0o700)
    folder.close()
    assert not folder.path.exists()
    folder.close()


def test_one_that_was_tidied_away_is_made_anew() -> None:
    folder = SocketFolder()
    before = folder.path
    shutil.rmtree(before)
    path = folder.socket()
    assert path.parent == folder.path != before
    assert path.parent.is_dir()
    folder.close()


def test_one_that_cannot_be_made_anew_is_made_as_soon_as_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SocketFolder()
    shutil.rmtree(folder.path)
    with monkeypatch.context() as full:
        full.setattr(tempfile, "mkdtemp", no_space)
        for _ in range(2):
            with pytest.raises(ConfigError):
                folder.socket()
    assert folder.socket().parent.is_dir()
    folder.close()


def no_space(**_: object) -> str:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_those_of_crashed_gateways_are_removed(runtime: Path) -> None:
    code = "import os; from vllama.engine.sockets import SocketFolder as F; f = F(); print(f.path, flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; f.socket().touch(); os._exit(9)"], stdout=subprocess.PIPE, text=True
    )
    left = Path(done.stdout.strip())
    assert (left / "1.sock").exists()
    others = [runtime / "vllama-without-a-lock", runtime / "else"]
    for other in others:
        other.mkdir()
    (runtime / "vllama-file").touch()
    (runtime / "vllama-link").symlink_to(others[1])
    living = SocketFolder()
    assert not left.exists()
    following = SocketFolder()
    assert living.path.is_dir(), "its gateway lives"
    assert all(other.is_dir() for other in others)
    assert (runtime / "vllama-file").exists()
    assert (runtime / "vllama-link").is_symlink()
    following.close()
    living.close()


def test_a_folder_that_does_not_fit_is_passed_over(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = runtime / ("long/" * 20)
    long.mkdir(parents=True)
    for unfit in (long, runtime / "missing"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(unfit))
        folder = SocketFolder()
        assert folder.path.parent == runtime
        assert len(os.fsencode(folder.path / "123456.sock")) <= 107
        folder.close()


def test_no_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(ConfigError, match=r"no folder for the engine's socket: .* or use --vllm-port"):
        SocketFolder()
