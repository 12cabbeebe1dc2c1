"""How long a model stays, and when it goes."""

import asyncio

import pytest
import uvloop

from tests.scheduling.conftest import Make
from tests.scheduling.plain import INF, A, B, Engines, User, once, settle, until
from vllama.engine.engine import State
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.scheduler import Loaded


async def test_keep_alive_is_overwritten_only_by_requests_that_carry_one(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=1, keep_alive=300.0)

    def remaining() -> float:
        return scheduler.loaded()[0].remaining

    await once(scheduler, A)
    assert 299 < remaining() <= 300
    await once(scheduler, A, 3600.0)
    assert 3599 < remaining() <= 3600
    await once(scheduler, A)
    assert 3599 < remaining() <= 3600
    await once(scheduler, A, INF)
    assert remaining() == INF
    await once(scheduler, A, 60.5)
    assert 60 < remaining() <= 60.5
    await once(scheduler, B)
    await once(scheduler, A)
    assert 299 < remaining() <= 300, "a new load begins with the default"


async def test_keep_alives_of_those_who_waited(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.held = {"start"}
    users = [User(scheduler, A, keep_alive) for keep_alive in (10.0, 20.0, None)]
    await settle()
    assert scheduler.loaded() == [Loaded(A, 20.0, 4096, State.STARTING, 1)], "listed while it loads"
    engines.release()
    for user in users:
        await user.entered()
        await user.leave()
    assert 19 < scheduler.loaded()[0].remaining <= 20


async def test_a_load_keeps_what_was_asked_for_by_those_who_gave_up(
    scheduler: LocalScheduler, engines: Engines
) -> None:
    engines.held = {"start"}
    user = User(scheduler, A, 3600.0)
    await settle()
    await user.cancel()
    engines.release()
    await once(scheduler, A)
    assert 3599 < scheduler.loaded()[0].remaining <= 3600


async def test_a_load_for_one_who_left_and_wanted_nothing_kept_is_given_up(
    scheduler: LocalScheduler, engines: Engines
) -> None:
    engines.held = {"start"}
    user = User(scheduler, A, 0.0)
    await settle()
    await user.cancel()
    await until(lambda: engines.events == ["start a", "stop a"])


def test_the_time_counts_from_the_last_leave() -> None:
    async def check() -> None:
        engines, loop = Engines(), asyncio.get_running_loop()
        scheduler = LocalScheduler(engines, keep_alive=10.0, max_queue=16)
        real, skipped = loop.time, 0.0
        loop.time = lambda: real() + skipped  # type: ignore[method-assign]
        first, second = User(scheduler, A), User(scheduler, A)
        await first.entered()
        await second.entered()
        skipped = 100.0
        await settle()
        assert scheduler.loaded()[0].remaining == 10, "it does not count while somebody uses it"
        await first.leave()
        assert scheduler.loaded()[0].remaining == 10
        await second.leave()
        skipped = 106.0
        await settle()
        assert 3 < scheduler.loaded()[0].remaining <= 4
        await once(scheduler, A)
        skipped = 112.0
        await settle()
        assert 3 < scheduler.loaded()[0].remaining <= 4
        assert engines.events == ["start a"]
        skipped = 116.5
        await until(lambda: engines.events == ["start a", "stop a"])
        assert scheduler.loaded() == []
        await scheduler.close()

    # On a loop of its own: timers that others set while its clock ran ahead would be late.
    with asyncio.Runner() as runner:
        runner.run(check())


@pytest.mark.parametrize("keep_alive", [0.0, 0.02])
async def test_unloaded_when_idle(make: Make, engines: Engines, keep_alive: float) -> None:
    scheduler = make(keep_alive=keep_alive)
    user = User(scheduler, A)
    await user.entered()
    await settle()
    assert engines.events == ["start a"]
    await user.leave()
    await until(lambda: engines.events == ["start a", "stop a"])
    await until(lambda: scheduler._mover.is_resting)
    await once(scheduler, A)
    assert engines.events[2] == "start a"


async def test_keep_alive_0_of_a_request(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    await once(scheduler, A, 0.0)
    await until(lambda: engines.events == ["start a", "stop a"])


async def test_an_unload(scheduler: LocalScheduler, engines: Engines) -> None:
    scheduler.unload(A)  # of what is not loaded
    user = User(scheduler, A)
    await user.entered()
    scheduler.unload(B)
    scheduler.unload(A)
    await settle()
    assert (engines.events, scheduler.loaded()[0].remaining) == (["start a"], 0)
    await user.leave()
    await until(lambda: engines.events == ["start a", "stop a"])


async def test_a_request_during_an_unload_waits_for_a_new_engine(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.held = {"stop"}
    await once(scheduler, A)
    scheduler.unload(A)
    await until(lambda: engines.last.state is State.STOPPING)
    assert scheduler.loaded() == [Loaded(A, 0.0, 4096, State.STOPPING, 1)], "its memory is not free yet"
    user = User(scheduler, A)
    await settle()
    assert user.lease is None
    engines.release()
    assert await user.entered() == "a"
    assert engines.events == ["start a", "stop a", "start a"]
    await user.leave()


async def test_a_request_in_the_turn_in_which_time_runs_out(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    scheduler.unload(A)
    async with scheduler.acquire(A, 60.0):
        await settle()
        assert engines.events == ["start a"], "unloaded under its user"


@pytest.mark.parametrize("keep_alive", [1e18, INF])
def test_long_times_on_the_gateways_own_loop(keep_alive: float) -> None:
    async def check() -> None:
        engines = Engines()
        scheduler = LocalScheduler(engines, keep_alive=keep_alive, max_queue=1)
        await once(scheduler, A)
        await settle()
        assert scheduler.loaded()[0].remaining == keep_alive
        await scheduler.close()
        assert engines.events == ["start a", "stop a"]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())
