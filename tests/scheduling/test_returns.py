"""Engines that come back for nobody: nobody else is held up, and nothing is taken from anybody."""

from tests.scheduling.conftest import Clock, Make
from tests.scheduling.plain import A, B, C, Engines, User, once, settle, until
from vllama.engine.engine import State
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.plan import Demand


def states(scheduler: LocalScheduler) -> dict[str, State]:
    return {loaded.model.name.model: loaded.state for loaded in scheduler.loaded()}


async def die(engines: Engines, name: str = "a") -> None:
    next(engine for engine in engines.alive if engine.name == name).die()
    await settle()


async def test_a_backoff_holds_nobody_else_up(scheduler: LocalScheduler, engines: Engines, clock: Clock) -> None:
    for model in (A, B):
        await once(scheduler, model)
    for name in "ab":
        await die(engines, name)
    for name in "ab":
        await die(engines, name)
    waiting = User(scheduler, A)
    await settle()
    assert states(scheduler) == {"a": State.STARTING, "b": State.STARTING}
    await once(scheduler, C)
    assert waiting.lease is None
    await clock.skip(5)
    assert await waiting.entered() == "a"
    await until(lambda: states(scheduler)["b"] is State.READY)
    await waiting.leave()


async def test_one_that_died_waits_for_the_start_of_another(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    engines.held = {"start b"}
    user = User(scheduler, B)
    await until(lambda: "start b" in engines.events)
    await die(engines)
    assert (engines.events[2:], states(scheduler)["a"]) == ([], State.STARTING)
    engines.release()
    await user.entered()
    await until(lambda: states(scheduler)["a"] is State.READY)
    await user.leave()


async def test_a_restart_for_nobody_gives_way_and_is_tried_again(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    engines.held = {"start a"}
    await die(engines)
    assert engines.events[2:] == ["start a"]
    engines.held = set()
    await once(scheduler, B)
    assert engines.events[3:5] == ["stop a", "start b"]
    await until(lambda: states(scheduler) == {"a": State.READY, "b": State.READY})


async def test_a_restart_takes_nothing_from_anybody(make: Make, engines: Engines, clock: Clock) -> None:
    scheduler = make(max_loaded=1)
    await once(scheduler, A)
    await die(engines)
    await die(engines)
    await once(scheduler, B)
    await clock.skip(5)
    assert (engines.events[-1], states(scheduler)) == ("start b", {"b": State.READY})
    await once(scheduler, A)


async def test_a_pinned_one_comes_back_when_others_leave_it_room(make: Make, engines: Engines, clock: Clock) -> None:
    scheduler = make(max_loaded=1, pinned=frozenset({A.name.key}))
    await once(scheduler, A)
    await die(engines)
    await die(engines)
    await once(scheduler, B)
    await clock.skip(5)
    assert states(scheduler) == {"b": State.READY}
    scheduler.unload(B)
    await until(lambda: states(scheduler) == {"a": State.READY})


async def test_it_comes_back_with_what_it_had(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.demand_of_all, engines.memory = Demand(4, 20, 20), 30
    await once(scheduler, B)
    user = User(scheduler, B)
    await user.entered()
    await once(scheduler, A)
    assert engines.last.share == 10
    await die(engines)
    assert (engines.events[-1], engines.last.share) == ("start a", 10)
    await user.leave()


async def test_one_that_died_asleep_and_has_room_comes_back(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=1)
    engines.can_sleep = True
    await once(scheduler, A)
    await once(scheduler, B, 0.0)
    await until(lambda: "stop b" in engines.events)
    await die(engines)
    assert states(scheduler) == {"a": State.READY}


async def test_one_that_died_asleep_and_whose_room_others_have(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=1)
    engines.can_sleep = True
    await once(scheduler, A)
    await once(scheduler, B)
    await die(engines)
    assert engines.events[3:] == ["stop a"]
    assert {report.names[0]: report.state for report in scheduler.reports()} == {
        "b:latest": State.READY, "a:latest": State.FAILED,
    }  # fmt: skip
    await once(scheduler, A)
    assert engines.events[4:] == ["sleep b", "start a"]
