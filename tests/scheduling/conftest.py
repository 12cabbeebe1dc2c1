"""Schedulers of which nothing may be left when a test ends."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.scheduling.plain import INF, Engines, settle, users_of
from vllama.scheduling.local import LocalScheduler


class Clock:
    """The loop's, put forward by tests. Never back: timers that were set meanwhile would be late."""

    def __init__(self, real: Callable[[], float]) -> None:
        self._real, self.ahead = real, 0.0

    def __call__(self) -> float:
        return self._real() + self.ahead

    async def skip(self, seconds: float) -> None:
        self.ahead += seconds
        await settle()


@pytest.fixture
async def clock() -> Clock:
    loop = asyncio.get_running_loop()
    if not isinstance(loop.time, Clock):
        loop.time = Clock(loop.time)  # type: ignore[method-assign]
    return loop.time  # type: ignore[return-value]


Make = Callable[..., LocalScheduler]


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
async def make(engines: Engines) -> AsyncIterator[Make]:
    """make(keep_alive=…, max_queue=…, …). At the test's end they are closed, and no task and no complaint is left."""
    gc.freeze()  # what others left behind is not to be looked through at the end
    loop, complaints, others = asyncio.get_running_loop(), [], asyncio.all_tasks()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    made: list[LocalScheduler] = []

    def make(keep_alive: float = INF, max_queue: int = 16, **settings: Any) -> LocalScheduler:
        made.append(LocalScheduler(engines, keep_alive=keep_alive, max_queue=max_queue, **settings))
        return made[-1]

    yield make
    engines.release()
    async with asyncio.timeout(5):
        for scheduler in made:
            await scheduler.close()
    await settle()
    assert asyncio.all_tasks() - others <= {asyncio.current_task()}
    gc.collect()
    loop.set_exception_handler(None)
    assert complaints == []
    assert [(users_of(scheduler), scheduler._residents) for scheduler in made] == [(0, {}) for _ in made]
    assert engines.alive == set()


@pytest.fixture
def scheduler(make: Make) -> LocalScheduler:
    """With room for any number of engines."""
    return make()


@pytest.fixture
def single(make: Make) -> LocalScheduler:
    """With room for one engine."""
    return make(max_loaded=1)
