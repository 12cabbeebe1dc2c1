"""Engines that make room by going to sleep, and come back."""

import asyncio

import pytest

from tests.scheduling.conftest import Make
from tests.scheduling.plain import INF, A, B, C, Engines, User, adapter, closing, names, once, settle, until
from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.plan import Demand


@pytest.fixture(autouse=True)
def sleepers(engines: Engines) -> None:
    engines.can_sleep = True


async def test_an_idle_engine_sleeps_and_wakes(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    await once(single, B)
    assert engines.events == ["start a", "sleep a", "start b"]
    assert names(single) == ["b"]
    assert (await once(single, A)).client == "a"  # type: ignore[comparison-overlap]
    assert engines.events[3:] == ["sleep b", "wake a"]
    assert names(single) == ["a"]
    assert len(engines.made) == 2


async def test_it_stays_no_longer_than_its_keep_alive(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=1)
    await once(scheduler, A, 0.02)
    await once(scheduler, B)
    assert engines.events == ["start a", "sleep a", "start b"]
    await until(lambda: engines.events[3:] == ["stop a"])


async def test_an_unload_ends_a_sleep(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    await once(single, B)
    single.unload(A)
    await until(lambda: engines.events[3:] == ["stop a"])


async def test_one_that_died_asleep_is_started_anew(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    await once(single, B)
    engines.made[0].die()
    await until(lambda: engines.events[3:] == ["stop a"])
    await once(single, A)
    assert engines.events[4:] == ["sleep b", "start a"]


async def test_one_that_does_not_wake_is_started_anew(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    await once(single, B)
    engines.failures["wake a"] = [EngineError("odd")]
    user, other = User(single, A), User(single, A)
    assert await user.entered() == await other.entered() == "a"
    assert engines.events[3:] == ["sleep b", "wake a", "stop a", "start a"]
    await user.leave()
    await other.leave()


async def test_one_that_does_not_go_to_sleep_is_stopped(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    engines.failures["sleep a"] = [EngineError("odd")]
    await once(single, B)
    assert engines.events == ["start a", "sleep a", "stop a", "start b"]


async def test_nothing_is_asked_of_an_engine_that_goes_to_sleep_or_wakes(
    single: LocalScheduler, engines: Engines
) -> None:
    await once(single, A)
    engines.held = {"sleep", "wake"}
    other = User(single, B)
    await until(lambda: "sleep a" in engines.events)
    user = User(single, A)
    await settle()
    assert (user.lease, [loaded.remaining for loaded in single.loaded()]) == (None, [0.0, INF])
    engines.release("sleep")
    await other.entered()
    await other.leave()
    await until(lambda: "wake a" in engines.events)
    await settle()
    assert user.lease is None
    engines.release()
    assert await user.entered() == "a"
    await user.leave()


async def test_waking_needs_room(make: Make, engines: Engines) -> None:
    """What the engine took before; where that is not to be had, it is started anew with less."""
    engines.demand_of_all, engines.memory = Demand(4, 8, 8), 12
    scheduler = make()
    await once(scheduler, A)
    pinned = make(pinned=frozenset({B.name.key}))
    await once(pinned, B)  # on the same machine
    assert [engine.share for engine in engines.made] == [8, 4]
    await once(scheduler, C)
    assert engines.events == ["start a", "start b", "sleep a", "start c"]
    engines.memory = 10
    lease = await once(scheduler, A)
    assert lease.client == "a"  # type: ignore[comparison-overlap]
    assert engines.events[4:] == ["sleep c", "stop c", "stop a", "start a"], "what sleeps went first, then it itself"
    assert engines.last.share == 6


async def test_a_wake_for_nobody_gives_way(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    await once(single, B)
    engines.held = {"wake"}
    user = User(single, A)
    await until(lambda: "wake a" in engines.events)
    await user.cancel()
    await once(single, C)
    assert engines.events[3:] == ["sleep b", "wake a", "stop a", "start c"]


async def test_what_sleeps_goes_last_where_memory_lacks(make: Make, engines: Engines) -> None:
    engines.demand_of_all, engines.memory = Demand.exactly(4), 6
    scheduler = make()
    await once(scheduler, A)
    engines.demands["b"] = Demand.exactly(8)
    with pytest.raises(EngineError, match="needs"):
        await once(scheduler, B)
    assert engines.events == ["start a", "sleep a", "stop a"]


async def test_an_adapter_is_still_there_after_a_sleep(single: LocalScheduler, engines: Engines) -> None:
    x = adapter("x", "a")
    await once(single, x)
    await once(single, B)
    assert (await once(single, x)).model.engine_name == "x"
    assert engines.events == ["start a", "load x", "sleep a", "start b", "sleep b", "wake a"]


async def test_close_stops_what_sleeps(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    await once(single, B)
    await asyncio.wait_for(single.close(), 1)
    assert sorted(engines.events[3:]) == ["stop a", "stop b"]
    assert engines.made[0].state is State.STOPPING


async def test_close_does_not_wait_for_one_to_fall_asleep(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    engines.held = {"sleep"}
    user = User(single, B)
    await until(lambda: "sleep a" in engines.events)
    await asyncio.wait_for(single.close(), 1)
    assert closing(await user.failure())
    assert engines.events == ["start a", "sleep a", "stop a"]


async def test_the_memory_cannot_be_asked_for(single: LocalScheduler, engines: Engines) -> None:
    """Only those who wait are told; what sleeps is still there."""
    await once(single, A)
    await once(single, B)
    engines.failures["free"] = [EngineError("the driver does not answer")]
    with pytest.raises(EngineError, match="the driver does not answer"):
        await once(single, A)
    await once(single, A)
    assert engines.events[3:] == ["sleep b", "wake a"]
