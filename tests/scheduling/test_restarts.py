"""Engines that die by themselves, and are started again."""

import asyncio

import pytest

from tests.scheduling.conftest import Clock, Make
from tests.scheduling.plain import A, B, Engines, User, adapter, closing, names, once, settle, until
from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.models.model import Model
from vllama.scheduling.local import LocalScheduler

X, Y = adapter("x", "a"), adapter("y", "a")
CAUSE = "the engine of a was lost: killed: buy memory"


def states(scheduler: LocalScheduler) -> dict[str, State]:
    return {loaded.model.name.model: loaded.state for loaded in scheduler.loaded()}


def starts(engines: Engines, name: str = "a") -> int:
    return engines.events.count(f"start {name}")


async def die(engines: Engines, name: str = "a") -> None:
    next(engine for engine in engines.alive if engine.name == name).die()
    await settle()


async def wear_out(engines: Engines, clock: Clock) -> None:
    """As many deaths as it takes."""
    for delay in (0, 5, 20):
        await die(engines)
        await clock.skip(delay)
    await die(engines)


async def test_one_that_died_idle_comes_back(make: Make, engines: Engines, clock: Clock) -> None:
    scheduler = make(keep_alive=300.0)
    await once(scheduler, A, 1000.0)
    await once(scheduler, Model(A.name.set_apart("copy"), source="a", engine_name="copy"))
    await clock.skip(100)
    await die(engines)
    assert engines.events == ["start a", "stop a", "start a"]
    assert [round(loaded.remaining) for loaded in scheduler.loaded()] == [900, 200], "the time that they had left"


async def test_one_that_died_in_use_comes_back_once_its_users_left(make: Make, engines: Engines) -> None:
    scheduler = make(keep_alive=300.0)
    user = User(scheduler, A)
    await user.entered()
    await die(engines)
    assert (engines.events, states(scheduler)) == (["start a"], {"a": State.STARTING})
    await user.leave()
    await until(lambda: states(scheduler) == {"a": State.READY})
    assert engines.events == ["start a", "stop a", "start a"]
    assert round(scheduler.loaded()[0].remaining) == 300


@pytest.mark.parametrize("keep_alive", [0.0, 60.0])
async def test_one_that_was_to_go_stays_away(
    scheduler: LocalScheduler, engines: Engines, clock: Clock, keep_alive: float
) -> None:
    user = User(scheduler, A, keep_alive)
    await user.entered()
    if keep_alive:
        await user.leave()
        clock.ahead += 60.1
    engines.last.die()
    assert states(scheduler) == {}
    await user.leave()
    await until(lambda: not engines.alive)
    await settle()
    assert engines.events == ["start a", "stop a"]
    assert [(report.state, report.error) for report in scheduler.reports()] == [(State.FAILED, CAUSE)]


async def test_those_who_wait_get_the_new_one(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A, 0.0)
    await until(lambda: not engines.alive)
    user = User(scheduler, A, 0.0)
    await user.entered()
    engines.last.die()
    waiting = User(scheduler, A)
    assert await waiting.entered() == "a"
    assert starts(engines) == 3
    for one in (user, waiting):
        await one.leave()


async def test_adapters_are_put_back(make: Make, engines: Engines, clock: Clock) -> None:
    scheduler = make(keep_alive=300.0)
    await once(scheduler, A)
    await once(scheduler, X, 1000.0)
    await once(scheduler, Y, 0.0)
    await until(lambda: names(scheduler) == ["a", "x"])
    await clock.skip(100)
    await die(engines)
    assert engines.events[-3:] == ["stop a", "start a", "load x"]
    assert engines.last.model.adapter is X.adapter, "made for what it is to hold"
    assert [round(loaded.remaining) for loaded in scheduler.loaded()] == [200, 900]


async def test_an_adapter_that_is_not_put_back(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    await once(scheduler, X)
    engines.failures["load x"] = [EngineError("x is broken")]
    await die(engines)
    assert states(scheduler) == {"a": State.READY}


async def test_the_second_and_third_time_it_takes_longer(
    scheduler: LocalScheduler, engines: Engines, clock: Clock
) -> None:
    await once(scheduler, A)
    for restarts, delay in enumerate((0, 5, 20), start=1):
        await die(engines)
        if delay:
            assert (starts(engines), states(scheduler)) == (restarts, {"a": State.STARTING})
            await clock.skip(delay - 0.5)
            assert starts(engines) == restarts
            await clock.skip(0.5)
        assert (starts(engines), states(scheduler)) == (restarts + 1, {"a": State.READY})
        assert scheduler.reports()[0].restarts == restarts
    await clock.skip(600)
    await die(engines)
    assert (starts(engines), scheduler.reports()[0].restarts) == (5, 1)


async def test_then_it_has_failed_until_it_is_asked_for(
    scheduler: LocalScheduler, engines: Engines, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await once(scheduler, A)
    await wear_out(engines, clock)
    await clock.skip(1000)
    assert (starts(engines), scheduler.loaded()) == (4, [])
    (report,) = scheduler.reports()
    assert (report.names, report.state, report.error) == (("a:latest",), State.FAILED, CAUSE)
    assert "a:latest: not started again until it is asked for, as it failed too often" in caplog.text
    await once(scheduler, A)
    assert (scheduler.reports()[0].state, scheduler.reports()[0].error) == (State.READY, "")


async def test_a_fresh_try_does_not_begin_the_count_anew(
    scheduler: LocalScheduler, engines: Engines, clock: Clock
) -> None:
    await once(scheduler, A)
    await wear_out(engines, clock)
    user = User(scheduler, A)
    await user.entered()
    engines.last.die()
    waiting = User(scheduler, A)
    assert str(await waiting.failure()) == CAUSE
    await user.leave()
    assert starts(engines) == 5
    await once(scheduler, A)


async def test_those_who_wait_are_told_in_the_end(scheduler: LocalScheduler, engines: Engines, clock: Clock) -> None:
    user = User(scheduler, A)
    await user.entered()
    await user.leave()
    for delay in (0, 5, 20):
        await die(engines)
        await clock.skip(delay)
    user = User(scheduler, A)
    await user.entered()
    engines.last.die()
    waiting, gone, other = User(scheduler, A), User(scheduler, A), User(scheduler, B)
    await gone.cancel()
    error = await waiting.failure()
    assert (type(error), str(error)) == (EngineError, CAUSE)
    assert await other.entered() == "b"
    for one in (user, other):
        await one.leave()


async def test_a_restart_that_fails_is_tried_again(scheduler: LocalScheduler, engines: Engines, clock: Clock) -> None:
    await once(scheduler, A)
    engines.failures["start a"] = [EngineError("no memory")] * 2
    await die(engines)
    assert (starts(engines), states(scheduler)) == (2, {"a": State.STARTING})
    assert str(await User(scheduler, A).failure()) == "no memory"
    await clock.skip(5)
    assert starts(engines) == 3
    waiting = User(scheduler, A)
    assert str(await waiting.failure()) == "no memory"
    await clock.skip(2)
    waiting = User(scheduler, A)
    await clock.skip(18)
    assert await waiting.entered() == "a"
    await waiting.leave()
    assert starts(engines) == 4


@pytest.mark.parametrize("waits", [True, False])
async def test_an_unload_during_a_backoff(
    scheduler: LocalScheduler, engines: Engines, clock: Clock, waits: bool
) -> None:
    await once(scheduler, A)
    await die(engines)
    await die(engines)
    user = User(scheduler, A, 0.0)
    await settle()
    if not waits:
        await user.cancel()
        await until(lambda: scheduler._mover.is_resting)
    scheduler.unload(A)
    await clock.skip(5)
    assert starts(engines) == 2 + waits
    if waits:
        await user.entered()
        await user.leave()
        await until(lambda: not engines.alive)


async def test_names_whose_time_runs_out_during_a_backoff(make: Make, engines: Engines, clock: Clock) -> None:
    scheduler = make(keep_alive=30.0)
    await once(scheduler, A)
    for delay in (0, 5, 20):
        await die(engines)
        await clock.skip(delay)
    assert starts(engines) == 4
    await until(lambda: not scheduler._residents or round(scheduler.loaded()[0].remaining) == 5)
    await clock.skip(10)
    assert (engines.alive, scheduler.loaded()) == (set(), [])


@pytest.mark.parametrize("end", ["drain", "close"])
async def test_the_end_during_a_backoff(scheduler: LocalScheduler, engines: Engines, clock: Clock, end: str) -> None:
    await once(scheduler, A)
    await die(engines)
    await die(engines)
    user = User(scheduler, A)
    await settle()
    if end == "close":
        await asyncio.wait_for(scheduler.close(), 1)
    else:
        scheduler.drain()
    assert closing(await user.failure())
    await clock.skip(100)
    assert (starts(engines), scheduler._residents) == (2, {})


async def test_an_engine_that_dies_while_all_ends_is_not_started_again(
    scheduler: LocalScheduler, engines: Engines
) -> None:
    user = User(scheduler, A)
    await user.entered()
    scheduler.drain()
    await die(engines)
    await user.leave()
    await until(lambda: not engines.alive)
    assert engines.events == ["start a", "stop a"]


async def test_one_that_is_ending_lets_nobody_in(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    engines.last.state = State.FAILED  # its processes are about to be gone
    user = User(scheduler, A)
    assert await user.entered() == "a"
    assert engines.events == ["start a", "stop a", "start a"]
    await user.leave()


@pytest.mark.parametrize("turns", range(10))
async def test_waiters_of_a_dead_engine_cancelled_at_every_await_point(
    make: Make, engines: Engines, turns: int
) -> None:
    scheduler = make(keep_alive=300.0)
    await once(scheduler, A)
    engines.last.die()
    user, other = User(scheduler, A), User(scheduler, A)
    for _ in range(turns):
        await asyncio.sleep(0)
    user.task.cancel()
    await asyncio.wait({user.task})
    assert await other.entered() == "a"
    await other.leave()
    assert starts(engines) == 2
