"""What /proc shows of processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vllama.engine.kin import Process, everyone, find, kin, look_at, title


def stopped(pid: int) -> Process:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    process = find(pid)
    assert process is not None
    return process


def test_ourselves() -> None:
    (process,) = look_at([os.getpid()])
    assert (process.pid, process.parent, process.session) == (os.getpid(), os.getppid(), os.getsid(0))
    assert process.state in "RS"
    assert process.ticks > 0
    assert 0 < process.started <= time.clock_gettime(time.CLOCK_BOOTTIME) * 100
    assert process.pid in [one.pid for one in everyone()]


def test_states_and_ends() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    try:
        process = stopped(child.pid)
        assert (process.state, title(process)) == ("T", "sleep")
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert find(child.pid) is None, "a zombie"
    child.wait()
    assert find(child.pid) is None


@pytest.mark.parametrize(("name", "shown"), [("VLLM::EngineCore", "EngineCore"), ("a) (b", "a) (b")])
def test_names(name: str, shown: str) -> None:
    code = f"import sys, time, ctypes; ctypes.CDLL(None).prctl(15, {name.encode()!r}, 0, 0, 0); print(flush=True)"
    command = [name, "-c", code + "; time.sleep(1000)"]
    with subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        process = find(child.pid)
        assert process is not None
        assert (process.name, title(process)) == (name[:15], shown)
        child.kill()


def test_a_session_and_what_left_it() -> None:
    code = (
        "import subprocess; p = subprocess.Popen(['sleep', '1000'], start_new_session=True); print(p.pid, flush=True)"
    )
    command = [sys.executable, "-c", code + "; p.wait()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as first:
        assert first.stdout is not None
        apart = int(first.stdout.readline())
        found = kin(first.pid)
        assert sorted(process.pid for process in found) == sorted([first.pid, apart])
        assert {process.session for process in found} == {first.pid, apart}
        first.kill()
    os.kill(apart, signal.SIGKILL)
