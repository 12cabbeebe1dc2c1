"""Names that are kept warm: they make room for others, and come back."""

import pytest

from tests.scheduling.conftest import Clock, Make
from tests.scheduling.plain import INF, A, B, C, Engines, User, adapter, names, once, settle, until
from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.models.model import Model
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.plan import AdapterLimits, Demand

X, Y, Z = (adapter(name, "a") for name in "xyz")


@pytest.fixture
def one(make: Make) -> LocalScheduler:
    """With room for one engine, and A to be kept warm."""
    return make(max_loaded=1, keep_alive=300.0, warm=frozenset({A.name.key}))


async def test_it_is_not_unloaded_for_being_idle(one: LocalScheduler, engines: Engines, clock: Clock) -> None:
    await once(one, A)
    await once(one, A, 0.0)
    one.unload(A)
    await clock.skip(10_000)
    assert [loaded.remaining for loaded in one.loaded()] == [INF]
    assert engines.events == ["start a"]


async def test_it_makes_room_and_comes_back(one: LocalScheduler, engines: Engines, clock: Clock) -> None:
    await once(one, A)
    await once(one, B)
    await clock.skip(100)
    assert engines.events == ["start a", "stop a", "start b"]
    assert names(one) == ["b"], "it is not on its way"
    assert [(report.names[0], report.state) for report in one.reports()] == [
        ("b:latest", State.READY), ("a:latest", State.STARTING),
    ]  # fmt: skip
    await clock.skip(250)
    await until(lambda: engines.events[3:] == ["stop b", "start a"])
    await settle()
    assert [loaded.state for loaded in one.loaded()] == [State.READY]


async def test_it_is_asked_for_while_others_have_its_room(one: LocalScheduler, engines: Engines) -> None:
    await once(one, A)
    user = User(one, B)
    await user.entered()
    waiting = User(one, A)
    await settle()
    assert [(loaded.model.name.model, loaded.state) for loaded in one.loaded()][1] == ("a", State.STARTING)
    await user.leave()
    assert await waiting.entered() == "a"
    await waiting.leave()


async def test_it_wakes_by_itself(one: LocalScheduler, engines: Engines, clock: Clock) -> None:
    engines.can_sleep = True
    await once(one, A)
    await once(one, B, 0.0)
    await until(lambda: engines.events == ["start a", "sleep a", "start b", "stop b", "wake a"])


async def test_it_takes_nothing_from_anybody(make: Make, engines: Engines, clock: Clock) -> None:
    """Not even what would be enough to run with less than it wants."""
    engines.demand_of_all, engines.memory = Demand(4, 8, 8), 10
    scheduler = make(warm=frozenset({A.name.key}))
    await once(scheduler, A)
    engines.demands["b"] = Demand.exactly(4)
    await once(scheduler, B)
    assert engines.events == ["start a", "stop a", "start b"]
    engines.memory = 11
    await clock.skip(10)
    assert engines.events[3:] == []
    engines.memory = 12
    await clock.skip(9)
    assert engines.events[3:] == []
    await clock.skip(1)
    assert engines.events[3:] == ["start a"], "others than our engines gave it back"
    assert engines.last.share == 8


async def test_those_who_wait_go_first(one: LocalScheduler, engines: Engines) -> None:
    await once(one, A)
    user = User(one, B, 0.0)
    await user.entered()
    other = User(one, C, 0.0)
    await settle()
    await user.leave()
    assert await other.entered() == "c"
    await other.leave()
    await until(lambda: engines.events[-1] == "start a")
    assert engines.events == ["start a", "stop a", "start b", "stop b", "start c", "stop c", "start a"]


async def test_it_gives_way_while_it_comes_back(one: LocalScheduler, engines: Engines) -> None:
    await once(one, A)
    engines.held = {"start a"}
    await once(one, B, 0.0)
    await until(lambda: engines.events[-1] == "start a")
    engines.held = set()
    user = User(one, C, 0.0)
    await user.entered()
    await user.leave()
    await until(lambda: names(one) == ["a"] and one.loaded()[0].state is State.READY)
    assert engines.events[4:] == ["start a", "stop a", "start c", "stop c", "start a"]


async def test_it_comes_back_after_its_death(one: LocalScheduler, engines: Engines, clock: Clock) -> None:
    await once(one, A)
    for delay in (0, 5, 20):
        engines.last.die()
        await settle()
        await clock.skip(delay)
        assert [loaded.state for loaded in one.loaded()] == [State.READY]
    engines.last.die()
    await settle()
    await clock.skip(10_000)
    assert (one.loaded(), one.reports()[0].state) == ([], State.FAILED)
    await once(one, A)
    await once(one, B, 0.0)
    await until(lambda: engines.events[-2:] == ["stop b", "start a"])


@pytest.mark.parametrize("failing", ["fetch a", "start a"])
async def test_one_that_cannot_be_loaded(one: LocalScheduler, engines: Engines, clock: Clock, failing: str) -> None:
    engines.failures[failing] = [EngineError("no")] * 5
    assert str(await User(one, A).failure()) == "no"
    for _ in range(3):
        await clock.skip(20)
    await clock.skip(3600)
    assert len(engines.failures[failing]) == 1, "four attempts"
    assert [(report.state, report.error) for report in one.reports()] == [(State.FAILED, "no")]
    assert str(await User(one, A).failure()) == "no"
    await clock.skip(3600)
    assert engines.failures[failing] == []
    await once(one, A)


async def test_one_that_does_not_fit_any_more(
    one: LocalScheduler, engines: Engines, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await once(one, A)
    engines.failures["demand a"] = [EngineError("a needs 31 GB")] * 3
    await once(one, B, 0.0)
    for _ in range(3):
        await clock.skip(10)
    await until(lambda: names(one) == ["a"])
    assert caplog.text.count("a:latest: loaded again when there is room: a needs 31 GB") == 0, "told as information"
    assert engines.failures["demand a"] == []


async def test_a_name_that_leads_elsewhere(one: LocalScheduler, engines: Engines) -> None:
    """What comes back is what was last asked for."""
    await once(one, A)
    await once(one, Model(A.name, source="b", engine_name="b"))
    await once(one, C, 0.0)
    await until(lambda: engines.events[-1] == "start b")
    assert engines.events == ["start a", "stop a", "start b", "stop b", "start c", "stop c", "start b"]


async def test_an_adapter_comes_back(make: Make, engines: Engines, clock: Clock) -> None:
    scheduler = make(keep_alive=300.0, warm=frozenset({X.name.key}))
    engines.limits = AdapterLimits(slots=1, rank=8)
    await once(scheduler, X)
    await once(scheduler, Y)
    await clock.skip(200)
    assert (names(scheduler), engines.events) == (["y"], ["start a", "load x", "unload x", "load y"])
    scheduler.unload(Y)
    await until(lambda: names(scheduler) == ["x"])
    await settle()
    await once(scheduler, Y, 0.0)
    await until(lambda: names(scheduler) == ["x"] and engines.events[-1] == "load x")


async def test_other_adapters_make_place_first(make: Make, engines: Engines) -> None:
    scheduler = make(warm=frozenset({X.name.key}))
    for model in (X, Y, Z, Y):
        await once(scheduler, model)
    assert names(scheduler) == ["x", "y"]


async def test_an_adapters_base_that_was_evicted(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=1, warm=frozenset({X.name.key}))
    await once(scheduler, X)
    await once(scheduler, B, 0.0)
    await until(lambda: names(scheduler) == ["x"] and scheduler.loaded()[0].state is State.READY)
    assert engines.events[-3:] == ["stop b", "start a", "load x"]


async def test_pinned_ones_are_never_in_its_way(make: Make, engines: Engines, clock: Clock) -> None:
    scheduler = make(max_loaded=1, pinned=frozenset({B.name.key}), warm=frozenset({A.name.key}))
    await once(scheduler, B)
    with pytest.raises(EngineError, match="b:latest is pinned"):
        await once(scheduler, A)
    await clock.skip(1000)
    assert engines.events == ["start b"]
