"""The memory of an engine that died, which a driver gives back before its end is noticed, or a moment after it."""

import asyncio

import pytest

from tests.scheduling.plain import A, B, C, Engines, User, once
from vllama.scheduling import memory
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.plan import Demand


async def test_it_is_waited_for(scheduler: LocalScheduler, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_RETURN_POLL_S", 0)
    engines.demand_of_all, engines.memory = Demand.exactly(10), 20
    await once(scheduler, A, 0.01)
    engines.demands["b"] = Demand(5, 20, 20)
    engines.late = [10, 10]
    engines.last.die()
    await once(scheduler, B)
    assert (engines.late, engines.last.share) == ([], 20)


async def test_it_is_not_waited_for_where_it_is_back(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.demand_of_all, engines.memory = Demand.exactly(10), 20
    await once(scheduler, A, 0.01)
    engines.alive.clear()
    engines.last.die()
    engines.demands["b"] = Demand(5, 25, 25)
    await asyncio.wait_for(once(scheduler, B), 1)
    assert engines.last.share == 20


async def test_what_slept_had_none(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.can_sleep, engines.demand_of_all, engines.memory = True, Demand(5, 20, 20), 30
    await once(scheduler, A)
    user = User(scheduler, B)
    await user.entered()
    assert engines.events == ["start a", "sleep a", "start b"]
    engines.demands["c"] = Demand(5, 50, 50)
    engines.made[0].die()
    await asyncio.wait_for(once(scheduler, C), 1)
    assert engines.last.share == 10
    await user.leave()
