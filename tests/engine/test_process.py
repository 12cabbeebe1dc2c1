"""An engine's processes and log, with the real guard where it matters and a shell in its place where not."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from tests.engine.conftest import FakeVllm, child_pid, until, until_gone
from tests.served import alive
from vllama.engine import log as log_module
from vllama.engine import process as process_module
from vllama.engine.log import EngineLog
from vllama.engine.process import EngineProcess, session_members


def shell(script: str) -> list[str]:
    """A guard of our own, which knows of no pipe."""
    return ["/bin/sh", "-c", script, "serve"]


@pytest.fixture
def log(tmp_path: Path) -> EngineLog:
    return EngineLog(tmp_path / "logs" / "engine.log")


@contextlib.asynccontextmanager
async def launched(command: list[str], log: EngineLog, **variables: str) -> AsyncIterator[EngineProcess]:
    process = await EngineProcess.launch(command, variables or {"PATH": os.environ["PATH"]}, log)
    try:
        yield process
    finally:
        await process.stop(0.0)


async def output_of(script: str, log: EngineLog) -> list[str]:
    async with asyncio.timeout(10), launched(shell(script), log) as process:
        assert await process.wait() == 0
    return list(log.tail)


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("echo one; echo two >&2", ["one", "two"]),
        ("printf 'no end'", ["no end"]),
        (r"printf 'a\r\nb\n\nc\n'", ["a", "b", "", "c"]),
        (r"printf 'load 1%%\rload 50%%\rload 100%%\ndone\n'", ["load 100%", "done"]),
        (r"printf '\377\376 h\303\251\n'", ["\ufffd\ufffd hé"]),
        ("echo '100 %s %d'", ["100 %s %d"]),
        (":", []),
    ],
)
async def test_output_is_kept_and_logged(log: EngineLog, script: str, lines: list[str]) -> None:
    assert await output_of(script, log) == lines
    written = log.path.read_text() if log.path.exists() else ""
    assert written == "".join(line + "\n" for line in lines)


async def test_lines_and_the_tail_are_bounded(log: EngineLog, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = await output_of("head -c 1000000 /dev/zero; seq 995", log)
    assert max(map(len, lines)) <= 2 * log_module._LINE_BYTES
    assert len(lines) == 1000
    assert lines[-1] == "995"


async def test_the_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_LOG_BYTES", 1000)
    log = EngineLog(tmp_path / "engine.log")
    await output_of("seq 2000", log)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["engine.log", "engine.log.1", "engine.log.2", "engine.log.3"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert files[0].read_text().endswith("1999\n2000\n")


async def test_a_full_disk_costs_the_file_only(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.symlink_to("/dev/full")
    assert await output_of("echo one; echo two", EngineLog(path)) == ["one", "two"]


async def test_a_folder_that_cannot_be_made_costs_the_file_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert await output_of("echo one", EngineLog(tmp_path / "file" / "engine.log")) == ["one"]


async def test_states_of_a_line_that_overwrites_itself_are_read(log: EngineLog) -> None:
    read: list[str] = []
    log.read = read.append
    async with launched(shell("printf '10%%\\r'; sleep 0.2; printf '20%%\\r'; sleep 1000"), log):
        await until(lambda: read == ["10%", "20%"])
        assert not log.tail


async def test_memory_that_processes_share_is_counted_once(log: EngineLog) -> None:
    """As an engine's that is forked from a process that has imported everything."""
    size = 64 * 2**20
    script = f"import os, time; data = b'1' * {size}; os.fork(); os.fork(); print('up', flush=True); time.sleep(1000)"
    async with launched([sys.executable, "-c", script, "serve"], log) as process:
        await until(lambda: list(log.tail) == 4 * ["up"])
        assert size <= process_module.resident(process.pid) < 2 * size
    assert process_module.resident(process.pid) == 0


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", -signal.SIGKILL)])
async def test_the_status_is_told(log: EngineLog, script: str, status: int) -> None:
    async with launched(shell(script), log) as process:
        assert await asyncio.wait_for(process.wait(), 5) == process.returncode == status


async def test_what_cannot_be_executed_is_an_error_and_leaves_nothing(log: EngineLog) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        await EngineProcess.launch(["/nowhere/python", "serve"], {}, log)
    await until(lambda: descriptors() == before)


async def test_stop_lets_an_engine_end_by_itself(fake_vllm: FakeVllm, log: EngineLog) -> None:
    process = await EngineProcess.launch(fake_vllm.command, fake_vllm.variables(end="hang"), log)
    await until(lambda: "hello" in log.tail)
    async with asyncio.timeout(20):
        await process.stop(30.0)
    assert process.returncode == 7
    assert log.tail[-1] == "terminated"


@pytest.mark.parametrize("apart", ["group", "session"])
async def test_stop_kills_an_engine_that_does_not_end(fake_vllm: FakeVllm, log: EngineLog, apart: str) -> None:
    plan = fake_vllm.variables(end="hang", ignore=True, child=apart)
    process = await EngineProcess.launch(fake_vllm.command, plan, log)
    child = await until(lambda: child_pid(log.tail))
    processes = [*session_members(process.pid), child]
    began = time.monotonic()
    await process.stop(0.2)
    assert time.monotonic() - began >= 0.2
    assert not alive(processes)
    await asyncio.wait_for(process.stop(0.2), 20)  # a second time


async def test_stop_ends_what_the_guards_death_has_left(fake_vllm: FakeVllm, log: EngineLog) -> None:
    process = await EngineProcess.launch(fake_vllm.command, fake_vllm.variables(end="hang", child="group"), log)
    child = await until(lambda: child_pid(log.tail))
    processes = session_members(process.pid)
    assert len(processes) == 3
    os.kill(process.pid, signal.SIGKILL)
    assert await asyncio.wait_for(process.wait(), 5) == -signal.SIGKILL
    await until_gone([*processes, child])
    await asyncio.wait_for(process.stop(1.0), 1)


async def test_a_guard_that_does_nothing_is_killed(log: EngineLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_KILL_S", 0.1)
    process = await EngineProcess.launch(shell("trap '' TERM; echo up; sleep 1000; :"), {}, log)
    await until(lambda: "up" in log.tail)
    processes = await until(lambda: len(found := session_members(process.pid)) == 2 and found)
    async with asyncio.timeout(2):
        await process.stop(0.1)
    assert not alive(processes)


async def test_a_process_that_cannot_be_killed(log: EngineLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "_KILL_S", 0.1)
    process = await EngineProcess.launch(shell("trap '' TERM; echo up; sleep 1000; :"), {}, log)
    await until(lambda: "up" in log.tail)
    with monkeypatch.context() as hanging:
        hanging.setattr(process_module, "kill_session", lambda _: None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.stop(0.1), 5)
    await process.stop(0.1)


async def test_the_end_of_the_server_is_told_before_all_is_killed(
    log: EngineLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_KILL_S", 0.1)
    guard = "import os, sys, time; os.close(int(sys.argv[3])); time.sleep(1000)"
    process = await EngineProcess.launch([sys.executable, "-c", guard, "serve"], {}, log)
    await asyncio.wait_for(process.ending.wait(), 5)
    assert process.returncode is None
    await process.stop(0.0)


async def test_somebody_else_holds_the_output(log: EngineLog, tmp_path: Path) -> None:
    """A helper that got away from a guard without powers keeps the pipe open: the end is told all the same."""
    pid_file = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 1000' & while [ ! -s {pid_file} ]; do :; done; exit 5"
    process = await EngineProcess.launch(shell(script), {"PATH": os.environ["PATH"]}, log)
    try:
        assert await asyncio.wait_for(process.wait(), 4) == 5
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def start_twenty(fake_vllm: FakeVllm, log: EngineLog) -> None:
    async def start(script: str) -> None:
        process = await EngineProcess.launch(shell(script), {"PATH": os.environ["PATH"]}, log)
        await process.stop(1.0)

    await start("exit 0")
    before = descriptors()
    for number in range(20):
        await start("exit 1" if number % 2 else "sleep 1000")
    gc.collect()
    await until(lambda: descriptors() <= before)


async def stop_stubborn(fake_vllm: FakeVllm, log: EngineLog) -> None:
    await test_stop_kills_an_engine_that_does_not_end(fake_vllm, log, "session")


async def test_no_descriptor_is_leaked(fake_vllm: FakeVllm, log: EngineLog) -> None:
    await start_twenty(fake_vllm, log)


@pytest.mark.parametrize("check", [start_twenty, stop_stubborn])
def test_on_the_gateways_own_loop(
    fake_vllm: FakeVllm, log: EngineLog, check: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check(fake_vllm, log))


async def test_cancelled_at_any_moment_of_the_launch(fake_vllm: FakeVllm, log: EngineLog) -> None:
    """At every await point: after each number of turns of the loop."""
    before, turns, launched = descriptors(), 0, False
    while not launched:
        task = asyncio.create_task(EngineProcess.launch(shell("exec sleep 1000"), {"PATH": os.environ["PATH"]}, log))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).stop(1.0)
            launched = True
        turns += 1
    assert turns > 2
    await until(lambda: descriptors() <= before)
    await until(lambda: not any("sleep" in name for name in running_children()))


def running_children() -> list[str]:
    names = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(child.name() if child.status() != psutil.STATUS_ZOMBIE else "zombie")
    return names
