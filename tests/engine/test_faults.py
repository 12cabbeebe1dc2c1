"""Engines that are lost while they are ready: noticed, ended, and nobody is left waiting for an answer."""

import asyncio
import errno
import logging
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import FakeVllm, until
from tests.served import alive
from vllama.engine import health as health_module
from vllama.engine.engine import Engine, State
from vllama.engine.kin import Process
from vllama.engine.leftovers import Records
from vllama.engine.plan import LaunchPlan
from vllama.engine.process import session_members
from vllama.errors import EngineGoneError

Ready = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def ready(fake_vllm: FakeVllm, tmp_path: Path) -> AsyncIterator[Ready]:
    """await ready(**plan): an engine that has started."""
    made: list[Engine] = []

    async def ready(**plan: Any) -> Engine:
        launch = LaunchPlan(
            fake_vllm.command, fake_vllm.variables(**plan), f"unix:{fake_vllm.socket}", "demo", tmp_path / "log", 10.0
        )
        made.append(Engine(launch, records=Records(tmp_path)))
        await asyncio.wait_for(made[-1].start(), 20)
        await made[-1].client.fate.learn(5.0)  # it has been looked at
        return made[-1]

    yield ready
    for engine in made:
        await engine.stop()
    assert list((tmp_path / "run").iterdir()) == []
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("engine-")])


def processes_of(engine: Engine) -> list[int]:
    """Its guard, and its server."""
    assert engine.pid is not None
    return sorted(session_members(engine.pid))


async def change_plan(engine: Engine, **plan: Any) -> None:
    await engine._post("/plan", plan, 5.0)


async def ask(engine: Engine) -> bytes:
    """A request that is never answered."""
    async with engine.client.request("POST", "/sleep?level=1", b"") as response:
        return await response.read()


async def lost(engine: Engine) -> None:
    """Wait until it counts as lost. Nothing of it is left then, not even who asked it."""
    processes = processes_of(engine)
    asking = asyncio.create_task(ask(engine))
    await until(lambda: engine.state is State.FAILED)
    await asyncio.wait_for(engine.ended.wait(), 20)
    with pytest.raises(EngineGoneError):
        await asyncio.wait_for(asking, 20)
    assert not alive(processes)


@pytest.mark.parametrize("which", ["guard", "server"])
async def test_a_stopped_process(ready: Ready, caplog: pytest.LogCaptureFixture, which: str) -> None:
    engine = await ready(asleep="hang")
    guard, server = processes_of(engine)
    stopped = guard if which == "guard" else server
    os.kill(stopped, signal.SIGSTOP)
    await lost(engine)
    assert f"process {stopped} (python" in engine.failure
    assert engine.failure.endswith("was stopped (SIGSTOP)")
    assert f"demo: the engine was given up: {engine.failure} (log: " in caplog.text
    assert await engine.client.fate.learn(0.0) == engine.failure


async def test_a_server_that_hangs(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await ready(asleep="hang")
    await change_plan(engine, health="hang")
    monkeypatch.setattr(health_module, "HUNG_S", 0.5)  # from here on, as a server may be slow on a busy machine
    monkeypatch.setattr(health_module, "PROBE_S", 0.2)
    await lost(engine)
    assert re.fullmatch(r"it hung: it did not answer /health for \d\.\d s and did nothing meanwhile", engine.failure)


async def test_a_server_that_says_that_its_engine_is_dead(ready: Ready) -> None:
    engine = await ready(asleep="hang", out="ready")
    await change_plan(engine, health="503")
    await lost(engine)
    assert engine.failure.startswith("its EngineCore died without a word: ")


async def test_a_server_that_is_killed(ready: Ready) -> None:
    engine = await ready(asleep="hang")
    os.kill(processes_of(engine)[1], signal.SIGKILL)
    await lost(engine)
    assert "killed (SIGKILL)" in engine.failure


async def test_a_busy_server_is_none_that_hangs(
    ready: Ready, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "vllama.engine")
    engine = await ready()
    await change_plan(engine, health="spin")
    with monkeypatch.context() as impatient:
        impatient.setattr(health_module, "HUNG_S", 0.2)
        impatient.setattr(health_module, "PROBE_S", 0.1)
        await until(lambda: "does not answer for now, though it is at work" in caplog.text)
    await change_plan(engine, health="200")
    assert await asyncio.wait_for(engine.client.fate.learn(20.0), 20) == ""
    assert engine.state is State.READY
    assert len(caplog.records) == 1


async def test_a_request_that_a_living_engine_broke_off(ready: Ready) -> None:
    engine = await ready()
    began = time.monotonic()
    assert await engine.client.fate.learn(20.0) == ""
    assert time.monotonic() - began < 10.0


async def test_a_sleeping_engine_is_left_alone(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "REST_S", 0.01)
    engine = await ready()
    await engine.sleep()
    await change_plan(engine, health="503")
    assert await engine.client.fate.learn(2.0) == ""
    assert engine.state is State.ASLEEP


async def test_a_gateway_that_can_open_no_file_still_watches(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_session: int) -> list[Process]:
        tried.set()
        raise OSError(errno.EMFILE, "Too many open files")

    tried = threading.Event()
    monkeypatch.setattr(health_module, "_KIN_S", 0.0)
    engine = await ready()
    monkeypatch.setattr(health_module, "kin", refuse)
    await asyncio.to_thread(tried.wait, 10)
    os.kill(next(pid for pid in processes_of(engine) if pid != engine.pid), signal.SIGKILL)
    await asyncio.wait_for(engine.ended.wait(), 10)
    assert engine.state is State.FAILED
