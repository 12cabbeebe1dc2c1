"""Engines that a crash left behind: ended by whoever starts next, and nobody else's process with them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from tests.engine.conftest import ROOT, FakeVllm, until, until_gone
from tests.served import alive
from vllama.engine import leftovers as leftovers_module
from vllama.engine.kin import find, kin
from vllama.engine.leftovers import Identity, Record, Records

GATEWAY = """
import asyncio, sys
from pathlib import Path
from vllama.engine import health
from vllama.engine.engine import Engine
from vllama.engine.plan import LaunchPlan
from vllama.engine.leftovers import Records
from tests.engine.conftest import FakeVllm

async def main(socket, path, home, child):
    health._KIN_S = 0.1
    fake = FakeVllm(Path(socket), path)
    plan = LaunchPlan(fake.command, fake.variables(child=child), f"unix:{socket}", "demo", Path(home, "log"), 20.0)
    engine = Engine(plan, records=Records(Path(home)))
    await engine.start()
    print(engine.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass
class Crash:
    """A gateway that was killed together with its engine's guard. left: what still runs of the engine."""

    home: Path
    left: list[int]


def records(home: Path) -> list[Record]:
    return [msgspec.json.decode(path.read_bytes(), type=Record) for path in (home / "run").glob("*.json")]


@pytest.fixture(params=["group", "session"])
async def crash(fake_vllm: FakeVllm, tmp_path: Path, request: pytest.FixtureRequest) -> Crash:
    arguments = [str(fake_vllm.socket), fake_vllm.path, str(tmp_path), request.param]
    with subprocess.Popen(
        [sys.executable, "-c", GATEWAY, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stdout is not None
        session = int(await asyncio.to_thread(gateway.stdout.readline))
        guard, server, child = await until(
            lambda: len(found := kin(session)) == 3 and sorted(found, key=lambda one: one.started)
        )
        await until(lambda: len(records(tmp_path)[0].members) == 3)
        assert Records(tmp_path).list_leftovers() == [], "its gateway lives"
        assert Records(tmp_path).end_leftovers() == []
        os.kill(guard.pid, signal.SIGSTOP)
        gateway.kill()
    os.kill(guard.pid, signal.SIGKILL)
    await until_gone([guard.pid, server.pid])
    return Crash(tmp_path, [child.pid])


async def test_the_next_start_ends_what_a_crash_left(crash: Crash, caplog: pytest.LogCaptureFixture) -> None:
    assert alive(crash.left) == crash.left
    (leftover,) = Records(crash.home).list_leftovers()
    assert leftover == ("demo", crash.left)
    assert await asyncio.to_thread(Records(crash.home).end_leftovers) == ["demo"]
    assert not alive(crash.left)
    assert caplog.messages == [f"ended what a crash had left of the engine of demo: processes {crash.left}"]
    assert list((crash.home / "run").iterdir()) == []
    assert Records(crash.home).end_leftovers() == []


@pytest.fixture
def stranger() -> Iterator[Identity]:
    """A process that is none of ours, in a session of its own."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        found = find(process.pid)
        assert found is not None
        yield Identity.of(found)
        process.kill()


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


NOBODY = Identity(2**22 + 1, 1)


def ours() -> Identity:
    process = find(os.getpid())
    assert process is not None
    return Identity.of(process)


def write(home: Path, record: Record) -> Path:
    path = home / "run" / "1-2.json"
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(record))
    return path


def test_a_pid_that_was_given_to_somebody_else(tmp_path: Path, stranger: Identity) -> None:
    earlier = Identity(stranger.pid, stranger.started - 1)
    path = write(tmp_path, Record("demo", boot(), NOBODY, stranger.pid, [earlier]))
    assert Records(tmp_path).list_leftovers() == []
    assert Records(tmp_path).end_leftovers() == []
    assert alive([stranger.pid])
    assert not path.exists()


def test_another_run_of_the_machine(tmp_path: Path, stranger: Identity) -> None:
    path = write(tmp_path, Record("demo", "another", ours(), stranger.pid, [stranger]))
    assert Records(tmp_path).end_leftovers() == []
    assert alive([stranger.pid])
    assert not path.exists()


def test_another_gateway_that_lives(tmp_path: Path, stranger: Identity) -> None:
    path = write(tmp_path, Record("demo", boot(), ours(), stranger.pid, [stranger]))
    assert Records(tmp_path).list_leftovers() == []
    assert Records(tmp_path).end_leftovers() == []
    assert alive([stranger.pid])
    assert path.exists()


def test_somebody_elses_process(tmp_path: Path, stranger: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers_module.os, "geteuid", lambda: os.getuid() + 1)
    write(tmp_path, Record("demo", boot(), NOBODY, stranger.pid, [stranger]))
    assert Records(tmp_path).end_leftovers() == []
    assert alive([stranger.pid])


def test_one_that_cannot_be_killed_is_not_waited_for(
    tmp_path: Path, stranger: Identity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leftovers_module, "_GONE_S", 0.1)
    monkeypatch.setattr(leftovers_module.os, "kill", lambda *_: None)
    path = write(tmp_path, Record("demo", boot(), NOBODY, stranger.pid, [stranger]))
    assert Records(tmp_path).end_leftovers() == []
    assert path.exists(), "the next start tries again"
    assert [record.getMessage() for record in caplog.records] == [
        f"what a crash left of the engine of demo cannot be ended: processes [{stranger.pid}]"
    ]


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[1", b"\xff"])
def test_files_that_are_no_records(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "run" / "x.json"
    path.parent.mkdir()
    path.write_bytes(garbage)
    assert (Records(tmp_path).list_leftovers(), Records(tmp_path).end_leftovers()) == ([], [])


def test_an_entry_follows_the_engine(tmp_path: Path, stranger: Identity) -> None:
    entry = Records(tmp_path).add(stranger.pid, "demo")
    (record,) = records(tmp_path)
    assert record == Record("demo", boot(), ours(), stranger.pid, [stranger])
    entry.see(kin(os.getpid()))
    assert [one.members for one in records(tmp_path)] == [[Identity.of(process) for process in kin(os.getpid())]]
    entry.remove()
    entry.see(kin(stranger.pid))  # from a thread that was late
    assert list((tmp_path / "run").iterdir()) == []
    entry.remove()


def test_who_wrote_it_is_known_though_no_file_can_be_opened(
    tmp_path: Path, stranger: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Records(tmp_path)
    monkeypatch.setattr(leftovers_module, "find", lambda _pid: None)
    known.add(stranger.pid, "demo").see(kin(stranger.pid))
    assert [record.gateway for record in records(tmp_path)] == [ours()]


def test_a_home_that_cannot_be_written(tmp_path: Path, stranger: Identity) -> None:
    (tmp_path / "run").touch()
    entry = Records(tmp_path).add(stranger.pid, "demo")
    entry.see(kin(os.getpid()))
    entry.remove()
    assert Records(tmp_path).end_leftovers() == []
