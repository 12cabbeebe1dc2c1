"""The standby, and engines that it forks: the real launcher around a fake vLLM."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from tests.engine.conftest import LAUNCHER, FakeVllm, child_pid, until, until_gone
from tests.served import alive
from vllama.engine import engine as engine_module
from vllama.engine import standby as standby_module
from vllama.engine.engine import Engine, State
from vllama.engine.log import EngineLog
from vllama.engine.memory import Memory
from vllama.engine.plan import LaunchPlan
from vllama.engine.process import EngineProcess, session_members
from vllama.engine.standby import Standby, StandbyError, StandbyState

Make = Callable[..., Standby]


@pytest.fixture
async def make(fake_vllm: FakeVllm, tmp_path: Path) -> AsyncIterator[Make]:
    """make(**variables): a started standby. It is closed when the test ends, and leaves nothing."""
    made: list[Standby] = []

    def make(command: list[str] | None = None, **variables: str) -> Standby:
        command = command or [*LAUNCHER, "standby"]
        standby = Standby(command, fake_vllm.variables() | variables, tmp_path / "standby.log")
        standby.start()
        made.append(standby)
        return standby

    yield make
    for standby in made:
        pid = standby.pid
        await asyncio.wait_for(standby.close(), 20)
        assert pid is None or not alive([pid])


@pytest.fixture(scope="module")
async def parked(fake_vllm_path: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Standby]:
    """One for all tests that do it no harm."""
    variables = FakeVllm(Path(), fake_vllm_path).variables()
    standby = Standby([*LAUNCHER, "standby"], variables, tmp_path_factory.mktemp("standby") / "log")
    standby.start()
    await until(lambda: standby.state is StandbyState.PARKED)
    yield standby
    await asyncio.wait_for(standby.close(), 20)


@pytest.fixture
async def mortal(make: Make) -> Standby:
    """One that a test may end."""
    standby = make()
    await until(lambda: standby.state is StandbyState.PARKED)
    return standby


@contextlib.asynccontextmanager
async def forked(standby: Standby, fake_vllm: FakeVllm, log: EngineLog, **plan: object) -> AsyncIterator[EngineProcess]:
    process = await EngineProcess.launch(fake_vllm.command, fake_vllm.variables(**plan), log, standby)
    try:
        yield process
    finally:
        await process.stop(0.2)
        await until(lambda: session_members(process.pid) == [])  # the guard's socket closes a moment before it ends


@pytest.fixture
def log(tmp_path: Path) -> EngineLog:
    return EngineLog(tmp_path / "engine.log")


async def test_a_forked_engine_is_as_one_that_was_started(parked: Standby, fake_vllm: FakeVllm, log: EngineLog) -> None:
    assert parked.pid is not None
    async with forked(parked, fake_vllm, log, end="hang") as process:
        await until(lambda: "hello" in log.tail)
        assert os.getsid(process.pid) == process.pid != os.getsid(parked.pid)
        assert len(session_members(process.pid)) == 2
        assert all(psutil.Process(pid).environ()["FAKE"] == "{}" for pid in [parked.pid])
        await process.stop(5.0)
        assert process.returncode == 7
    assert log.tail[-1] == "terminated"
    assert "hello" in log.path.read_text()


@pytest.mark.parametrize(("end", "status"), [("exit 3", 3), ("say no", 1), ("raise oh", 1), ("kill 9", 137)])
async def test_the_status_is_told(parked: Standby, fake_vllm: FakeVllm, log: EngineLog, end: str, status: int) -> None:
    async with forked(parked, fake_vllm, log, end=end) as process:
        assert await asyncio.wait_for(process.wait(), 20) == process.returncode == status
        assert process.ending.is_set()


async def test_what_the_guards_death_has_left_is_ended(parked: Standby, fake_vllm: FakeVllm, log: EngineLog) -> None:
    async with forked(parked, fake_vllm, log, end="hang", child="group") as process:
        child = await until(lambda: child_pid(log.tail))
        processes = session_members(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        assert await asyncio.wait_for(process.wait(), 20) == 128 + signal.SIGKILL
        await until_gone([*processes, child])


async def test_processes_of_an_engine_are_forked_too(parked: Standby, fake_vllm: FakeVllm, log: EngineLog) -> None:
    async with forked(parked, fake_vllm, log, says="context", end="exit 0") as process:
        await process.wait()
    assert any("ForkContext" in line for line in log.tail)
    async with forked(parked, fake_vllm, again := EngineLog(log.path), says="class", end="exit 0") as process:
        await process.wait()
    assert "said True" in again.tail  # the parent of whoever looked is the engine


async def test_a_forked_worker_uses_the_cores_that_vllm_chose(
    parked: Standby, fake_vllm: FakeVllm, log: EngineLog
) -> None:
    async with forked(parked, fake_vllm, log, says="threads", end="exit 0") as process:
        await process.wait()
    assert f"said [1] {{{max(os.sched_getaffinity(0))}}}" in log.tail


async def test_one_for_all_engines(parked: Standby, fake_vllm: FakeVllm, tmp_path: Path) -> None:
    assert parked.pid is not None
    files = Path(f"/proc/{parked.pid}/fd")
    before = len(list(files.iterdir()))
    logs = [EngineLog(tmp_path / f"{number}.log") for number in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        for log in logs:
            await stack.enter_async_context(forked(parked, fake_vllm, log, end="hang"))
        await until(lambda: all("hello" in log.tail for log in logs))
        assert len(list(files.iterdir())) == before
    await until(lambda: psutil.Process(parked.pid).children() == [])
    assert parked.memory() > 0


async def test_engines_outlive_the_standby_which_is_replaced(
    mortal: Standby, fake_vllm: FakeVllm, log: EngineLog
) -> None:
    first = mortal.pid
    assert first is not None
    async with forked(mortal, fake_vllm, log, end="hang") as process:
        await until(lambda: "hello" in log.tail)
        os.kill(first, signal.SIGKILL)
        await until(lambda: mortal.state is not StandbyState.PARKED)
        await until(lambda: mortal.state is StandbyState.PARKED)
        assert mortal.pid not in (first, None)
        assert len(alive(session_members(process.pid))) == 2
        await process.stop(5.0)
        assert process.returncode == 7


async def test_one_that_dies_again_and_again_is_given_up(
    make: Make, monkeypatch: pytest.MonkeyPatch, fake_vllm: FakeVllm, log: EngineLog
) -> None:
    monkeypatch.setattr(standby_module, "_PAUSES_S", (0.0, 0.0, 0.0))
    standby = make(IMPORT="die")
    await until(lambda: "4th time" in standby.reason)
    assert standby.state is StandbyState.FAILED
    assert 'it exited with status 3, its last words: "no module named vllm"' in standby.reason
    with pytest.raises(StandbyError, match="the standby is failed: it exited"):
        await EngineProcess.launch(fake_vllm.command, fake_vllm.variables(), log, standby)
    assert standby._log_path.read_text().count("standby starts") == 4


@pytest.mark.parametrize(("effect", "reason"), [("cuda", "initialized CUDA"), ("thread", "started threads (helper)")])
async def test_it_is_off_where_a_fork_is_not_safe(make: Make, effect: str, reason: str) -> None:
    standby = make(IMPORT=effect)
    await until(lambda: standby.state is StandbyState.OFF)
    assert reason in standby.reason
    assert standby._keeper is not None
    await asyncio.wait_for(asyncio.wait({standby._keeper}), 20)
    assert (standby.pid, standby.memory()) == (None, 0)


async def test_it_is_off_where_memory_is_short(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby_module, "read_memory", lambda _: Memory(8 * 2**30, 2**30, 8 * 2**30, 0))
    standby = make()
    await until(lambda: standby.state is StandbyState.OFF)
    assert standby.reason == "only 1.1 GB of RAM are free"


async def test_an_import_that_hangs_is_ended(
    make: Make, monkeypatch: pytest.MonkeyPatch, fake_vllm: FakeVllm, log: EngineLog
) -> None:
    monkeypatch.setattr(standby_module, "_IMPORT_S", 0.3)
    standby = make(IMPORT="hang")
    with pytest.raises(StandbyError, match=r"did not import vLLM within 0\.3 s"):
        await asyncio.wait_for(EngineProcess.launch(fake_vllm.command, fake_vllm.variables(), log, standby), 20)


async def test_a_stopped_standby_is_replaced(
    mortal: Standby, fake_vllm: FakeVllm, log: EngineLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby_module, "_FORK_S", 0.2)
    first = mortal.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(StandbyError, match="did not fork within"):
        await EngineProcess.launch(fake_vllm.command, fake_vllm.variables(), log, mortal)
    await until(lambda: mortal.state is StandbyState.PARKED and mortal.pid != first)


async def test_no_interpreter(make: Make) -> None:
    standby = make(command=["/nowhere/python", "standby"])
    await until(lambda: standby.state is StandbyState.FAILED)
    assert standby.reason == "its interpreter /nowhere/python cannot be run (No such file or directory)"


async def test_a_fork_cancelled_at_any_moment_leaves_nothing(
    parked: Standby, fake_vllm: FakeVllm, log: EngineLog
) -> None:
    turns, launched = 0, False
    while not launched:
        plan = fake_vllm.variables(end="hang")
        task = asyncio.create_task(EngineProcess.launch(fake_vllm.command, plan, log, parked))
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns > 40:
            await asyncio.wait({task})
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).stop(1.0)
            launched = True
        turns += 1
    assert parked.pid is not None
    guards = psutil.Process(parked.pid)
    await until(lambda: guards.children() == [])


MakeEngine = Callable[..., Engine]


@pytest.fixture
async def engine_of(fake_vllm: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeEngine]:
    monkeypatch.setattr(engine_module, "_STOP_GRACE_S", 0.2)
    made: list[Engine] = []

    def engine_of(standby: Standby, **plan: object) -> Engine:
        plan_ = LaunchPlan(
            fake_vllm.command, fake_vllm.variables(**plan), f"unix:{fake_vllm.socket}", "demo", tmp_path / "log", 60.0
        )
        made.append(Engine(plan_, standby=standby))
        return made[-1]

    yield engine_of
    for engine in made:
        await engine.stop()


async def test_an_engine_is_forked(parked: Standby, engine_of: MakeEngine) -> None:
    engine = engine_of(parked)
    await asyncio.wait_for(engine.start(), 10)
    assert (engine.state, engine.fast) == (State.READY, True)


async def test_an_engine_waits_for_what_is_being_imported(make: Make, engine_of: MakeEngine) -> None:
    engine = engine_of(make())
    await asyncio.wait_for(engine.start(), 10)
    assert engine.fast


async def test_without_the_standby_an_engine_is_started(make: Make, engine_of: MakeEngine) -> None:
    engine = engine_of(make(IMPORT="cuda"))
    await asyncio.wait_for(engine.start(), 10)
    assert (engine.state, engine.fast) == (State.READY, False)


@pytest.mark.parametrize("trouble", ["silence", "cuda"])
async def test_a_fork_that_comes_to_nothing_is_followed_by_a_start(
    parked: Standby, engine_of: MakeEngine, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(engine_module, "_FORKED_SILENCE_S", 0.3)
    engine = engine_of(
        parked,
        forked="hang" if trouble == "silence" else "RuntimeError: Cannot re-initialize CUDA in forked subprocess.",
    )
    await asyncio.wait_for(engine.start(), 15)
    assert (engine.state, engine.fast) == (State.READY, False)
    assert not engine.ended.is_set()
    await until(lambda: psutil.Process(parked.pid).children() == [])


async def test_a_forked_engine_that_fails_is_not_tried_again(parked: Standby, engine_of: MakeEngine) -> None:
    engine = engine_of(parked, end="raise the weights are broken")
    with pytest.raises(engine_module.EngineError, match="the weights are broken"):
        await asyncio.wait_for(engine.start(), 10)
    assert engine.state is State.FAILED
