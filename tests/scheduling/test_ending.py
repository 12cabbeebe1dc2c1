"""Engines that die, and the end of it all."""

import asyncio

import pytest

from tests.scheduling.plain import INF, A, B, Engines, User, closing, once, settle, until
from vllama.engine.engine import State
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.scheduler import Loaded


async def test_an_engine_that_died_is_replaced(scheduler: LocalScheduler, engines: Engines) -> None:
    user = User(scheduler, A)
    await user.entered()
    engines.last.die()
    await settle()
    assert scheduler.loaded() == [Loaded(A, INF, None, State.STARTING, 0)], "it comes back"
    assert engines.events == ["start a"], "its users are still reading"
    await asyncio.wait_for(once(scheduler, A), 1)
    assert engines.events == ["start a", "stop a", "start a"]
    await user.leave()
    await settle()
    assert scheduler.loaded() == [Loaded(A, INF, 4096, State.READY, 1)]


async def test_an_engine_that_died_unused_is_cleaned_up_at_once(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    engines.last.die()
    await until(lambda: engines.events == ["start a", "stop a"])


async def test_a_swap_does_not_wait_for_users_of_a_dead_engine(single: LocalScheduler, engines: Engines) -> None:
    user = User(single, A)
    await user.entered()
    swap = User(single, B)
    await settle()
    engines.last.die()
    assert await asyncio.wait_for(swap.entered(), 1) == "b"
    await user.leave()
    await swap.leave()


async def test_a_stop_that_fails_is_logged_and_the_next_model_loads(
    single: LocalScheduler, engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    await once(single, A)

    engines.failures["stop"] = [OSError("odd")]
    await once(single, B)
    assert "a:latest: stopping its engine failed" in caplog.text
    engines.alive.discard(engines.made[0])


@pytest.mark.parametrize("held", ["fetch", "start"])
async def test_close_while_loading(scheduler: LocalScheduler, engines: Engines, held: str) -> None:
    engines.held = {held}
    users = [User(scheduler, A), User(scheduler, B)]
    await settle()
    await asyncio.wait_for(scheduler.close(), 1)
    assert all([closing(await user.failure()) for user in users])
    assert engines.events == (["start a", "stop a"] if held == "start" else [])


@pytest.mark.parametrize("held", ["fetch", "start"])
async def test_drain_gives_up_a_load(scheduler: LocalScheduler, engines: Engines, held: str) -> None:
    engines.held = {held}
    users = [User(scheduler, A), User(scheduler, B)]
    await settle()
    scheduler.drain()
    assert all([closing(await user.failure()) for user in users])
    await settle()
    assert engines.events == (["start a", "stop a"] if held == "start" else [])


async def test_drain_lets_users_go_on(scheduler: LocalScheduler, engines: Engines) -> None:
    user = User(scheduler, A)
    await user.entered()
    scheduler.drain()
    assert closing(await User(scheduler, A).failure())
    await settle()
    assert engines.events == ["start a"]
    await user.leave()


async def test_close_with_users_and_those_who_wait_for_them(single: LocalScheduler, engines: Engines) -> None:
    user = User(single, A, 0.01)
    await user.entered()
    swap = User(single, B)
    await settle()
    await asyncio.wait_for(single.close(), 1)
    assert closing(await swap.failure())
    assert engines.events == ["start a", "stop a"]
    assert closing(await User(single, A).failure())
    await user.leave()
    await settle()
    assert single.loaded() == []


async def test_close_waits_for_a_stop_under_way(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.held = {"stop"}
    await once(scheduler, A, 0.0)
    await until(lambda: engines.last.state is State.STOPPING)
    closing = [asyncio.create_task(scheduler.close()) for _ in range(2)]
    await settle()
    assert not any(task.done() for task in closing)
    closing[0].cancel()
    await settle()
    engines.release()
    await asyncio.wait_for(closing[1], 1)
    assert engines.events == ["start a", "stop a"]


async def test_close_unused(scheduler: LocalScheduler) -> None:
    await scheduler.close()
    await scheduler.close()
