"""The launcher's guard, around a fake server: how it ends, and that nothing is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import FakeVllm
from tests.served import alive, wait_until
from vllama.engine.process import kill_session, session_members

SOON = 2.0


class Guarded:
    """A started guard. pipe: our end of its pipe."""

    def __init__(self, fake: FakeVllm, **plan: Any) -> None:
        guard_end, self.pipe = os.pipe()
        command = fake.command
        command.insert(command.index("serve") + 1, f"--guard-fd={guard_end}")
        self.process = subprocess.Popen(
            command, env=fake.variables(**plan), pass_fds=(guard_end,), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        os.close(guard_end)

    def read_until(self, text: str) -> str:
        """Its output up to and with the line that holds the text."""
        assert self.process.stdout is not None
        read = ""
        for line in self.process.stdout:
            read += line.decode()
            if text in read:
                return read
        pytest.fail(f"{text!r} is not in {read!r}")

    def child(self) -> int:
        return int(self.read_until("child ").split()[1])

    def server(self) -> int:
        return next(pid for pid in session_members(self.process.pid) if pid != self.process.pid)

    def wait(self, seconds: float = 10.0) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        kill_session(self.process.pid)
        self.process.wait(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self.pipe != -1:
            os.close(self.pipe)

    def close_pipe(self) -> None:
        os.close(self.pipe)
        self.pipe = -1


@contextmanager
def guarded(fake: FakeVllm, **plan: Any) -> Iterator[Guarded]:
    started = Guarded(fake, **plan)
    try:
        yield started
    finally:
        started.close()


@pytest.mark.parametrize(
    ("end", "status", "output"),
    [
        ("exit 0", 0, "hello\n"),
        ("exit 3", 3, "hello\n"),
        ("say no memory", 1, "hello\nno memory\n"),
        ("raise no memory", 1, "RuntimeError: no memory\n"),
        (f"kill {signal.SIGKILL:d}", 128 + 9, "hello\n"),
        (f"kill {signal.SIGSEGV:d}", 128 + 11, "hello\n"),
    ],
)
def test_the_servers_end_is_told(fake_vllm: FakeVllm, end: str, status: int, output: str) -> None:
    with guarded(fake_vllm, end=end) as guard:
        assert guard.process.stdout is not None
        assert guard.process.stdout.read().decode().endswith(output)
        assert guard.wait() == status


@pytest.mark.parametrize("apart", ["group", "session"])
def test_what_the_server_leaves_behind_is_killed(fake_vllm: FakeVllm, apart: str) -> None:
    with guarded(fake_vllm, child=apart, end="hang") as guard:
        child = guard.child()
        os.kill(guard.server(), signal.SIGKILL)
        assert guard.wait(SOON) == 128 + 9
        assert not alive([child]), "the guard told of the end before all had ended"


@pytest.mark.parametrize("apart", ["group", "session"])
def test_the_closed_pipe_ends_everything(fake_vllm: FakeVllm, apart: str) -> None:
    with guarded(fake_vllm, child=apart, end="hang", ignore=True) as guard:
        processes = [guard.child(), guard.server()]
        guard.close_pipe()
        assert guard.wait(SOON) == 128 + 9
        assert not alive(processes)


PARENT = """
import asyncio, sys
from pathlib import Path
from vllama.engine.process import EngineLog, EngineProcess

async def main():
    log = EngineLog(Path(sys.argv[1]))
    process = await EngineProcess.launch(sys.argv[4:], {"PYTHONPATH": sys.argv[2], "FAKE": sys.argv[3]}, log)
    while not any(line.startswith("child") for line in log.tail):
        await asyncio.sleep(0.01)
    print(process.pid, *log.tail, flush=True)
    await process.wait()

asyncio.run(main())
"""


def test_the_gateways_sigkill_ends_everything(fake_vllm: FakeVllm, tmp_path: Path) -> None:
    plan = fake_vllm.variables(child="session", end="hang", ignore=True)["FAKE"]
    arguments = [str(tmp_path / "log"), fake_vllm.path, plan, *fake_vllm.command]
    with subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        session, _, child = parent.stdout.readline().decode().split()[:3]
        processes = [*session_members(int(session)), int(child)]
        assert len(processes) == 3
        parent.kill()
        killed = time.monotonic()
        wait_until(lambda: not alive(processes), SOON, "everything ends")
        assert time.monotonic() - killed < SOON


def test_the_guards_own_sigkill_ends_the_server(fake_vllm: FakeVllm) -> None:
    with guarded(fake_vllm, end="hang", ignore=True) as guard:
        guard.read_until("hello")
        server = guard.server()
        guard.process.kill()
        wait_until(lambda: not alive([server]), SOON, "the server ends")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded(fake_vllm: FakeVllm, number: int) -> None:
    with guarded(fake_vllm, end="hang") as guard:
        guard.read_until("hello")
        guard.process.send_signal(number)
        if number == signal.SIGTERM:
            guard.read_until("terminated")
            assert guard.wait() == 7
        else:
            guard.read_until("KeyboardInterrupt")
            assert guard.wait() == 1


def test_sigterm_at_any_moment_of_the_start(fake_vllm: FakeVllm) -> None:
    for milliseconds in range(0, 80, 8):
        with guarded(fake_vllm, end="hang") as guard:
            deadline = time.monotonic() + milliseconds / 1000
            wait_until(lambda: time.monotonic() >= deadline, 1, "the moment")  # noqa: B023 - called at once
            guard.process.terminate()
            assert guard.wait(5) in (-signal.SIGTERM, 128 + signal.SIGTERM, 7)
            assert session_members(guard.process.pid) == []


def test_nobody_reads_the_output(fake_vllm: FakeVllm) -> None:
    """As after the end of a gateway: what cannot be written does not change the status."""
    with guarded(fake_vllm, end="raise a long story") as guard:
        assert guard.process.stdout is not None
        guard.process.stdout.close()
        assert guard.wait() == 1


def test_the_guard_is_small() -> None:
    heavy = {"asyncio", "json", "logging", "multiprocessing", "socket", "subprocess", "vllm", "torch"}
    script = "import sys, vllama_engine.__main__, vllama_engine.guard, vllama_engine.server; print(*sys.modules)"
    path = Path(__file__).parents[2] / "python_engine"
    modules = subprocess.run(
        [sys.executable, "-S", "-c", script], env={"PYTHONPATH": str(path)}, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not heavy & set(modules)
