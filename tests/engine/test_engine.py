"""An engine's life, with the real launcher around a fake vLLM."""

import asyncio
import contextlib
import itertools
import logging
import os
import re
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import uvloop

from tests.engine.conftest import FakeVllm, child_pid, until, until_gone
from tests.served import alive
from vllama.engine import engine as engine_module
from vllama.engine.diagnosis import diagnose
from vllama.engine.engine import WARM_UP_PROMPT, Engine, State
from vllama.engine.memory import Memory
from vllama.engine.plan import LaunchPlan
from vllama.engine.process import EngineProcess, session_members
from vllama.engine.progress import Progress
from vllama.errors import EngineError, EngineGoneError
from vllama.scheduling.plan import AdapterLimits

Make = Callable[..., Engine]
INF = float("inf")


@pytest.fixture
async def make(fake_vllm: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """make(stall_timeout=…, planned={more of its LaunchPlan}, **plan): an engine.

    It is stopped and leaves nothing when the test ends.
    """
    monkeypatch.setattr(engine_module, "_STOP_GRACE_S", 0.2)
    made: list[Engine] = []

    def make(stall_timeout: float = INF, command: list[str] | None = None, planned: Any = None, **plan: Any) -> Engine:
        command = command or fake_vllm.command
        url = f"unix:{fake_vllm.socket}"
        log = tmp_path / "engine.log"
        launch = LaunchPlan(command, fake_vllm.variables(**plan), url, "demo", log, stall_timeout, **planned or {})
        made.append(Engine(launch))
        return made[-1]

    yield make
    for engine in made:
        await engine.stop()
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("engine-")])


def pid_of(engine: Engine) -> int:
    assert engine._process is not None
    return engine._process.pid


def server_of(engine: Engine) -> int:
    return next(pid for pid in session_members(pid_of(engine)) if pid != pid_of(engine))


def log_of(engine: Engine) -> str:
    return engine.log_path.read_text() if engine.log_path.exists() else ""


async def failure_of(engine: Engine, seconds: float = 10.0) -> str:
    """How its start fails; nothing is left of it then."""
    with pytest.raises(EngineError) as error:
        await asyncio.wait_for(engine.start(), seconds)
    assert engine.state is State.FAILED
    if engine._process is not None:
        assert session_members(pid_of(engine)) == []
    return str(error.value)


async def test_ready_after_the_first_prompt(make: Make) -> None:
    engine = make(context=2048)
    assert engine.state is State.STARTING
    await asyncio.wait_for(engine.start(), 10)
    assert (engine.state, engine.context_length) == (State.READY, 2048)
    assert re.match(r"vllama: demo is started \S+\nhello\nasked /v1/completions ", log_of(engine))
    assert WARM_UP_PROMPT in log_of(engine)
    assert len(WARM_UP_PROMPT.split()) > 20, "a short first prompt kills a CPU engine that uses AMX"
    processes = session_members(pid_of(engine))
    await engine.stop()
    assert engine.state is State.STOPPING
    assert not alive(processes)


async def test_something_is_done_while_it_starts(make: Make) -> None:
    ends = list[bool]()
    engine = make(planned={"meanwhile": lambda stop: ends.append(stop.wait(10))})
    await asyncio.wait_for(engine.start(), 10)
    assert ends == [True]


async def test_what_it_leaves_lying_about_goes_with_it(make: Make) -> None:
    with tempfile.TemporaryDirectory(prefix="vllama-") as folder:
        engine = make(planned={"scratch": Path(folder)}, out="up")
        await asyncio.wait_for(engine.start(), 10)
        (place,) = Path(folder).iterdir()
        variables = psutil.Process(server_of(engine)).environ()
        assert variables["TMPDIR"] == variables["VLLM_RPC_BASE_PATH"] == str(place)
        await engine.stop()
        assert not place.exists()


async def test_an_embedding_engine_is_ready_after_an_embedding(make: Make) -> None:
    engine = make(warm_up="404", context=0)
    await asyncio.wait_for(engine.start(), 10)
    assert (engine.state, engine.context_length) == (State.READY, None)
    assert "asked /v1/embeddings" in log_of(engine)


@pytest.mark.parametrize(
    ("plan", "cause"),
    [
        ({"end": "raise so bad, sir"}, "so bad, sir:"),
        ({"end": "exit 3", "out": "Bad luck"}, 'it exited with status 3, its last words: "Bad luck":'),
        ({"end": "raise No CUDA GPUs are available"}, f"{diagnose(['No CUDA GPUs are available'], 1)};"),
        ({"end": "kill 9", "out": "Reading"}, f"{diagnose([], -9)};"),
        ({"warm_up": "kill 4"}, f"{diagnose([], -4)};"),
    ],
)
async def test_an_early_end_tells_its_cause(make: Make, plan: dict[str, str], cause: str) -> None:
    engine = make(**plan)
    expected = f"the engine of demo did not start: {cause} its log is {engine.log_path}"
    assert await failure_of(engine) == expected


async def test_an_interpreter_that_is_gone(make: Make) -> None:
    text = await failure_of(make(command=["/nowhere/python", "-m", "vllama_engine", "serve", "--"]))
    assert text == (
        "the engine's interpreter /nowhere/python cannot be run (No such file or directory): "
        "run `vllama engine install --reinstall`"
    )


async def test_a_failed_first_prompt_fails_the_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_LAST_WORDS_S", 0.05)
    text = await failure_of(make(warm_up="500"))
    assert text == 'the engine of demo failed its first prompt: {"error": "EngineCore encountered an issue"}'


async def test_a_first_prompt_without_an_answer_fails_the_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(warm_up="hang", stall_timeout=60.0)
    until_healthy = engine._until_healthy

    async def then_less(process: EngineProcess) -> None:
        await until_healthy(process)
        engine._plan = replace(engine._plan, stall_timeout=0.1)

    monkeypatch.setattr(engine, "_until_healthy", then_less)
    assert "did not answer its first prompt" in await failure_of(engine)


async def test_a_silent_start_is_given_up(make: Make) -> None:
    began = time.monotonic()
    text = await failure_of(make(end="hang", ignore=True, stall_timeout=0.4))
    assert re.search(r"was given up: no progress for \d s while importing: allow more with OLLAMA_LOAD_TIMEOUT", text)
    assert time.monotonic() - began >= 0.4


async def test_a_start_that_prints_is_not_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on only with each line: how fast this machine is does not matter."""
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: now)
    now = 0.0

    def read_a_second_later(line: str) -> None:
        nonlocal now
        now = float(next(seconds))
        read(line)

    engine = make(print_every=0.05, prints=12, stall_timeout=3.0)
    engine.progress = Progress(clock.monotonic)
    read = engine.progress.read
    monkeypatch.setattr(engine.progress, "read", read_a_second_later)
    monkeypatch.setattr(engine_module, "time", clock)
    await asyncio.wait_for(engine.start(), 10)
    assert "line 11" in log_of(engine)
    assert now > 12


async def test_a_slow_first_answer_is_no_silence(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for the prompt does not count from the last line before it."""
    engine = make(stall_timeout=5.0)
    first_accepted = engine._first_accepted

    async def answered_late(*attempts: Any) -> None:
        await first_accepted(*attempts)
        engine.progress.changed_at -= 10.0

    monkeypatch.setattr(engine, "_first_accepted", answered_late)
    await asyncio.wait_for(engine.start(), 10)
    assert engine.state is State.READY


async def test_an_end_between_the_prompt_and_ready_is_an_early_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()

    async def die(*_: Any, **__: Any) -> None:
        os.kill(server_of(engine), signal.SIGKILL)
        await engine.ended.wait()
        raise EngineError("gone")

    monkeypatch.setattr(engine.client, "get_json", die)
    assert "did not start: a process of it was killed (SIGKILL)" in await failure_of(engine)


async def test_an_end_that_the_guard_still_sees_to_is_an_early_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_LAST_WORDS_S", 0.05)
    engine, killed = make(), asyncio.Event()

    async def die(*_: Any, **__: Any) -> None:
        process = engine._process
        assert process is not None
        wait = process.wait

        async def until_killed() -> int:
            await killed.wait()
            return await wait()

        monkeypatch.setattr(process, "wait", until_killed)
        monkeypatch.setattr(engine, "stop", stop_once(engine, killed))
        os.kill(server_of(engine), signal.SIGKILL)
        await process.ending.wait()
        raise EngineError("gone")

    monkeypatch.setattr(engine.client, "get_json", die)
    assert "did not start: " in await failure_of(engine)


def stop_once(engine: Engine, killed: asyncio.Event) -> Callable[[], Any]:
    """`engine.stop`, from which on the guard is through."""
    stop = engine.stop

    async def stopping() -> None:
        killed.set()
        await stop()

    return stopping


async def test_a_first_prompt_that_is_broken_off_is_not_asked_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_LAST_WORDS_S", 0.05)
    engine = make()

    async def break_off(*_: Any) -> None:
        raise EngineGoneError("the engine's reply broke off")

    monkeypatch.setattr(engine, "_first_accepted", break_off)
    with pytest.raises(EngineError, match="broke off its first prompt: the engine's reply broke off: its log is") as e:
        await asyncio.wait_for(engine.start(), 10)
    assert not isinstance(e.value, EngineGoneError)


async def test_a_death_after_ready_is_told_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    engine = make(child="group")
    await asyncio.wait_for(engine.start(), 10)
    child = child_pid(log_of(engine).splitlines())
    assert child is not None
    with caplog.at_level(logging.ERROR, "vllama.engine"):
        os.kill(server_of(engine), signal.SIGKILL)
        await asyncio.wait_for(engine.ended.wait(), 5)
        assert engine.state is State.FAILED
        assert not alive([child])
        await engine.stop()
    assert engine.state is State.FAILED
    assert engine.failure == str(diagnose([], -signal.SIGKILL))
    assert [record.message for record in caplog.records] == [
        f"demo: the engine ended by itself: {engine.failure} (log: {engine.log_path})"
    ]


async def test_a_stop_is_no_death(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    engine = make()
    await asyncio.wait_for(engine.start(), 10)
    await engine.stop()
    await engine.stop()
    assert engine.ended.is_set()
    assert not caplog.records


async def test_a_stop_before_the_start(make: Make) -> None:
    await make().stop()


@pytest.mark.parametrize(
    "reached",
    ["", "hello", "asked"],
    ids=["before it runs", "while it starts", "while it answers its first prompt"],
)
async def test_a_cancelled_start_leaves_nothing(make: Make, reached: str) -> None:
    engine = make(child="session", ignore=True, warm_up="hang")
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine._process is not None and reached in log_of(engine))
    guard = pid_of(engine)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, 6)
    assert engine.state is State.FAILED
    await until_gone([guard, *session_members(guard), *filter(None, [child_pid(log_of(engine).splitlines())])])


async def test_a_start_cancelled_in_any_of_its_first_turns_leaves_nothing(make: Make) -> None:
    for turns in range(12):
        engine = make(end="hang")
        starting = asyncio.create_task(engine.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(starting, 6)
        if engine._process is not None:
            assert session_members(pid_of(engine)) == []


async def test_a_cancelled_stop_goes_on_and_can_be_waited_for(make: Make) -> None:
    engine = make(ignore=True, child="session")
    await asyncio.wait_for(engine.start(), 10)
    processes = session_members(pid_of(engine))
    stopping = asyncio.create_task(engine.stop())
    await until(lambda: engine.state is State.STOPPING)
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    assert alive(processes)
    await asyncio.wait_for(engine.stop(), 5)
    assert not alive(processes)


@pytest.mark.parametrize(
    ("context", "full", "said"),
    [
        (16384, 40960, ["demo: context 16384 of 40960 tokens: what fits in 22.1 GB"]),
        (40960, 40960, []),
        (0, 40960, []),
        (16384, None, []),
    ],
)
async def test_a_context_that_does_not_fit_is_told(
    make: Make, caplog: pytest.LogCaptureFixture, context: int, full: int | None, said: list[str]
) -> None:
    caplog.set_level(logging.INFO, "vllama.engine")
    engine = make(context=context, planned={"full_context": full, "size": 22_100_000_000})
    await asyncio.wait_for(engine.start(), 10)
    assert [record.message for record in caplog.records] == said


async def test_adapters_come_and_go(make: Make) -> None:
    limits = AdapterLimits(slots=4, rank=16)
    engine = make(planned={"adapters": limits, "size": 7})
    assert (engine.name, engine.size, engine.adapters) == ("demo", 7, limits)
    await asyncio.wait_for(engine.start(), 10)
    await engine.load_adapter("parrot", Path("/parrot"))
    await engine.load_adapter("parrot", Path("/parrot/2"))  # in place of the first
    await engine.unload_adapter("parrot")
    await engine.unload_adapter("parrot")
    asked = [line.split(maxsplit=2)[1:] for line in log_of(engine).splitlines() if "lora" in line]
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    assert [path for path, _ in asked] == [load, load, unload, load, unload, unload]
    assert asked[3][1] == '{"lora_name": "parrot", "lora_path": "/parrot/2"}'


async def test_an_adapter_that_vllm_refuses(make: Make) -> None:
    engine = make(adapters={"parrot": [500, "LoRA rank 64 is greater than max_lora_rank 16."]})
    await asyncio.wait_for(engine.start(), 10)
    with pytest.raises(EngineError, match=r"^the adapter in /parrot has rank 64 and its engine takes"):
        await engine.load_adapter("parrot", Path("/parrot"))
    assert engine.state is State.READY


@pytest.mark.parametrize(("free", "size", "can"), [(100, 99, True), (100, 100, True), (100, 101, False), (9, None, 0)])
async def test_who_can_sleep(
    make: Make, monkeypatch: pytest.MonkeyPatch, free: int, size: int | None, can: bool
) -> None:
    monkeypatch.setattr(engine_module, "read_memory", lambda _: Memory(1000, free, 1000, 0))
    engine = make(planned={"sleep_size": size})
    assert not engine.can_sleep(), "before it is ready"
    await asyncio.wait_for(engine.start(), 10)
    assert engine.can_sleep() is bool(can)


async def test_sleeping_and_waking(make: Make) -> None:
    engine = make(planned={"sleep_size": 10})
    await asyncio.wait_for(engine.start(), 10)
    await engine.sleep()
    assert engine.state is State.ASLEEP
    assert not engine.can_sleep()
    await engine.wake()
    assert engine.state is State.READY
    assert log_of(engine).splitlines()[-2:] == ["asked /sleep?level=1 {}", "asked /wake_up {}"]


@pytest.mark.parametrize(
    ("asleep", "text"),
    [
        ("500", "the engine of demo is not sleeping: it answered 500: out of memory"),
        ("hang", "the engine did not answer in time"),
        ("kill 9", "was killed"),
    ],
)
async def test_a_sleep_that_fails(make: Make, monkeypatch: pytest.MonkeyPatch, asleep: str, text: str) -> None:
    monkeypatch.setattr(engine_module, "_CHANGE_S", 0.3)
    engine = make(asleep=asleep)
    await asyncio.wait_for(engine.start(), 10)
    with pytest.raises(EngineError, match=text):
        await engine.sleep()
    assert engine.state is not State.READY, "no request may be sent to it"
    await asyncio.wait_for(engine.stop(), 10)
    assert engine.gone


@pytest.mark.parametrize("awake", ["500", "stay", "kill 9"])
async def test_a_waking_that_fails(make: Make, awake: str) -> None:
    engine = make(awake=awake)
    await asyncio.wait_for(engine.start(), 10)
    await engine.sleep()
    with pytest.raises(EngineError):
        await engine.wake()
    assert engine.state is not State.READY


async def test_a_death_in_its_sleep_is_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    engine = make()
    await asyncio.wait_for(engine.start(), 10)
    await engine.sleep()
    assert not engine.gone
    os.kill(server_of(engine), signal.SIGKILL)
    await asyncio.wait_for(engine.ended.wait(), 5)
    assert engine.gone
    assert engine.state is State.FAILED  # type: ignore[comparison-overlap]
    assert "demo: the engine ended by itself" in caplog.text


async def test_nobody_is_sent_to_an_engine_whose_server_is_gone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    await asyncio.wait_for(engine.start(), 10)
    process, killed = engine._process, asyncio.Event()
    assert process is not None
    wait = process.wait

    async def until_killed() -> int:
        await killed.wait()
        return await wait()

    monkeypatch.setattr(process, "wait", until_killed)  # as long as the guard has the rest to kill
    os.kill(server_of(engine), signal.SIGKILL)
    await until(lambda: engine.state is State.FAILED)
    assert not engine.ended.is_set()
    killed.set()


def test_on_the_gateways_own_loop(fake_vllm: FakeVllm, tmp_path: Path) -> None:
    async def live() -> None:
        url = f"unix:{fake_vllm.socket}"
        engine = Engine(LaunchPlan(fake_vllm.command, fake_vllm.variables(), url, "demo", tmp_path / "log", INF))
        await asyncio.wait_for(engine.start(), 10)
        assert engine.state is State.READY
        os.kill(server_of(engine), signal.SIGKILL)
        await asyncio.wait_for(engine.ended.wait(), 5)
        assert engine.state is State.FAILED  # type: ignore[comparison-overlap]
        await engine.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())
