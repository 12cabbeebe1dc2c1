"""Who has to go for an engine, and for how much."""

import asyncio
from typing import Any

import pytest

from tests.scheduling.conftest import Make
from tests.scheduling.plain import INF, A, B, C, D, Engines, User, base, names, once, settle, until
from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.models.model import Model
from vllama.scheduling import memory
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.plan import Demand
from vllama.scheduling.scheduler import Loaded

GB = 10**9
Users = dict[str, tuple[Model, float, bool]]


@pytest.mark.parametrize(
    ("present", "demand", "memory", "limit", "gone", "share"),
    [
        # name: (keep_alive, whether it is used); each takes 10 GB
        ({}, (5, 20, 20), 100, 0, [], 20),
        ({}, (5, 20, 20), 100, 1, [], None),
        ({}, (5, 20, 20), 12, 0, [], 12),
        ({}, (5, 20, 20), 12, 1, [], None),
        ({"a": (9, False)}, (5, 20, 20), 30, 0, [], 20),
        ({"a": (9, False)}, (5, 20, 20), 29, 0, ["a"], 20),  # an idle one goes already for a whole context
        ({"a": (9, False)}, (5, 15, 20), 29, 0, [], 19),  # but not for many
        ({"a": (9, False)}, (5, 15, 20), 24, 0, ["a"], 20),
        ({"a": (9, True)}, (5, 20, 20), 29, 0, [], 19),  # a busy one does not
        ({"a": (9, False)}, (5, 20, 20), 100, 1, ["a"], None),
        ({"a": (9, False), "b": (8, False)}, (5, 20, 20), 100, 2, ["b"], 20),
        ({"b": (9, False), "a": (9, False)}, (5, 20, 20), 100, 2, ["a"], 20),
        ({"a": (8, True), "b": (9, False)}, (5, 20, 20), 100, 2, ["b"], 20),
        ({"a": (8, False), "b": (INF, False)}, (5, 20, 20), 100, 2, ["a"], 20),
        ({"a": (8, False), "b": (9, False), "c": (7, True)}, (5, 20, 20), 35, 0, ["a", "b"], 20),
        ({"a": (8, False), "b": (9, False), "c": (7, False)}, (5, 5, 5), 31, 0, ["c"], 5),
    ],
)
async def test_who_goes(
    make: Make,
    engines: Engines,
    present: dict[str, tuple[float, bool]],
    demand: tuple[int, int, int],
    memory: int,
    limit: int,
    gone: list[str],
    share: int | None,
) -> None:
    engines.demand_of_all = Demand.exactly(10 * GB)
    engines.demands["d"] = Demand(*(size * GB for size in demand))
    engines.memory = memory * GB
    scheduler = make(max_loaded=limit)
    users = []
    for name, (keep_alive, used) in present.items():
        users.append(User(scheduler, base(name), keep_alive))
        await users[-1].entered()
        if not used:
            await users[-1].leave()
    await once(scheduler, D)
    assert engines.events == [f"start {name}" for name in present] + [f"stop {name}" for name in gone] + ["start d"]
    assert engines.last.share == (share and share * GB)
    assert scheduler.loaded()[-1] == Loaded(D, INF, 4096, State.READY, engines.last.size)
    for user in users:
        if not user.task.done():
            await user.leave()


async def test_the_one_that_was_to_stay_shortest_is_drained(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=2)
    first, second = User(scheduler, A, 60.0), User(scheduler, B, 30.0)
    await first.entered()
    await second.entered()
    wanted = User(scheduler, C)
    await settle()
    newcomers = [User(scheduler, A), User(scheduler, B)]
    await settle()
    assert [user.lease is None for user in (wanted, *newcomers)] == [True, False, True]
    assert [loaded.remaining for loaded in scheduler.loaded() if loaded.model.name.model == "b"] == [0.0]
    await second.leave()
    assert await wanted.entered() == "c"
    assert engines.events == ["start a", "start b", "stop b", "start c"]
    await wanted.leave()
    assert await newcomers[1].entered() == "b", "its turn comes"
    for user in (first, *newcomers):
        await user.leave()


async def test_another_that_becomes_idle_first_goes_instead(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=2)
    first, second = User(scheduler, A, 60.0), User(scheduler, B, 30.0)
    await first.entered()
    await second.entered()
    wanted = User(scheduler, C)
    await settle()
    newcomer = User(scheduler, B)
    await settle()
    await first.leave()
    assert await newcomer.entered() == "b", "nobody's room is wanted any more"
    assert await wanted.entered() == "c"
    assert engines.events == ["start a", "start b", "stop a", "start c"]
    for user in (second, wanted, newcomer):
        await user.leave()


async def test_pinned_models_stay(make: Make, engines: Engines) -> None:
    scheduler = make(keep_alive=0.0, max_loaded=2, pinned=frozenset({A.name.key}))
    await once(scheduler, A, 0.0)
    scheduler.unload(A)
    for model in (B, C, B):
        await once(scheduler, model)
    await settle()
    assert scheduler.loaded() == [Loaded(A, INF, 4096, State.READY, 1)]
    assert engines.events == ["start a", "start b", "stop b", "start c", "stop c", "start b", "stop b"]


@pytest.mark.parametrize(
    ("settings", "memory", "text"),
    [
        (
            {"max_loaded": 2}, 100 * GB,
            "c:latest cannot be loaded: at most 2 may be loaded at once, and a:latest, b:latest are pinned:"
            " pin fewer models, or allow more with OLLAMA_MAX_LOADED_MODELS",
        ),
        (
            {}, 25 * GB,
            "c:latest needs 10 GB of memory, 5 GB free, and a:latest, b:latest are pinned:"
            " pin fewer models, or take a smaller one",
        ),
    ],
)  # fmt: skip
async def test_only_pinned_models_are_in_the_way(
    make: Make, engines: Engines, settings: dict[str, Any], memory: int, text: str
) -> None:
    engines.demand_of_all = Demand.exactly(10 * GB)
    engines.memory = memory
    scheduler = make(pinned=frozenset({A.name.key, B.name.key}), **settings)
    for model in (A, B):
        await once(scheduler, model)
    for _ in range(2):
        with pytest.raises(EngineError) as raised:
            await once(scheduler, C)
        assert str(raised.value) == text
    assert names(scheduler) == ["a", "b"]


async def test_memory_that_others_hold(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.demand_of_all, engines.memory = Demand(10 * GB, 20 * GB, 20 * GB), 3 * GB
    with pytest.raises(EngineError, match=r"a:latest needs 10 GB of memory, 3 GB free: end what else uses it"):
        await once(scheduler, A)


async def test_what_can_never_fit_costs_nobody_anything(single: LocalScheduler, engines: Engines) -> None:
    await once(single, A)
    engines.failures["demand"] = [EngineError("b:latest needs 31 GB, the GPU has 24 GB")]
    with pytest.raises(EngineError, match="the GPU has 24 GB"):
        await once(single, B)
    assert names(single) == ["a"]


async def test_a_model_that_cannot_be_downloaded_costs_nobody_anything(
    single: LocalScheduler, engines: Engines
) -> None:
    await once(single, A)
    engines.failures["fetch"] = [EngineError("there is no such repository")]
    with pytest.raises(EngineError, match="no such repository"):
        await once(single, B)
    assert names(single) == ["a"]


async def test_downloads_hold_nobody_up(single: LocalScheduler, engines: Engines) -> None:
    engines.held = {"fetch b", "fetch c"}
    waiting = [User(single, model) for model in (B, C)]
    await settle()
    assert [(loaded.model, loaded.state) for loaded in single.loaded()] == [(B, State.STARTING), (C, State.STARTING)]
    await once(single, A)
    user = User(single, A)
    await user.entered()
    engines.release("fetch c")
    await settle()
    assert waiting[1].lease is None
    await user.leave()
    assert await waiting[1].entered() == "c"
    await waiting[1].leave()
    engines.release()
    assert await waiting[0].entered() == "b"
    await waiting[0].leave()
    assert engines.events == ["start a", "stop a", "start c", "stop c", "start b"]


async def test_a_ready_model_never_waits_for_anothers_load(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    engines.held = {"start b"}
    waiting = [User(scheduler, B), User(scheduler, C)]
    await settle()
    assert names(scheduler) == ["a", "b", "c"]
    for _ in range(3):
        await once(scheduler, A)
    assert engines.events == ["start a", "start b"], "one start at a time"
    engines.release()
    for user in waiting:
        await user.entered()
        await user.leave()


async def test_memory_is_not_given_back_while_an_engine_starts(make: Make, engines: Engines) -> None:
    scheduler = make(keep_alive=0.0)
    user = User(scheduler, A)
    await user.entered()
    engines.held = {"start b"}
    other = User(scheduler, B, INF)
    await until(lambda: "start b" in engines.events)
    await user.leave()
    await settle()
    assert engines.events == ["start a", "start b"]
    assert scheduler.loaded()[0].remaining == 0
    engines.release()
    assert await other.entered() == "b"
    await until(lambda: "stop a" in engines.events)
    await other.leave()


async def test_names_share_an_engine_each_with_its_own_time(scheduler: LocalScheduler, engines: Engines) -> None:
    copy = Model(A.name.set_apart("x"), source="a", engine_name="copy")
    engines.checkpoints["a"] = checkpoint = object()
    assert (await once(scheduler, A, 60.0)).model.checkpoint is checkpoint
    lease = await once(scheduler, copy, 3600.0)
    assert (lease.model.name, lease.model.engine_name, lease.model.checkpoint) == (copy.name, "a", checkpoint)
    await once(scheduler, A)
    assert [round(loaded.remaining) for loaded in scheduler.loaded()] == [60, 3600]
    assert {loaded.model.checkpoint for loaded in scheduler.loaded()} == {checkpoint}
    scheduler.unload(A)
    await until(lambda: names(scheduler) == [copy.name.model])
    assert engines.events == ["start a"]
    scheduler.unload(copy)
    await until(lambda: scheduler.loaded() == [])
    assert engines.events == ["start a", "stop a"]


@pytest.mark.parametrize("pinned", [frozenset(), frozenset({A.name.key})])
async def test_a_name_that_leads_elsewhere_leaves_its_old_engine(
    make: Make, engines: Engines, pinned: frozenset[str]
) -> None:
    scheduler = make(pinned=pinned)
    await once(scheduler, A)
    again = Model(A.name, source="b", engine_name="a")
    assert (await once(scheduler, again)).client == "b"  # type: ignore[comparison-overlap]
    await until(lambda: sorted(engines.events) == ["start a", "start b", "stop a"])
    assert names(scheduler) == ["a"]


async def test_names_that_wait_for_one_load(scheduler: LocalScheduler, engines: Engines) -> None:
    copy = Model(A.name.set_apart("x"), source="a", engine_name="copy")
    engines.held = {"start"}
    users = [User(scheduler, A, 10.0), User(scheduler, copy, 20.0)]
    await settle()
    assert [(loaded.model.name, loaded.remaining) for loaded in scheduler.loaded()] == [(A.name, 10), (copy.name, 20)]
    await users[1].cancel()
    engines.release()
    await users[0].entered()
    assert [loaded.state for loaded in scheduler.loaded()] == [State.READY, State.READY]
    await users[0].leave()
    assert engines.events == ["start a"]


async def test_memory_that_a_driver_gives_back_late(
    scheduler: LocalScheduler, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else has to go for it, and it is not said that the model does not fit."""
    monkeypatch.setattr(memory, "_RETURN_POLL_S", 0)
    engines.demand_of_all, engines.memory = Demand.exactly(10), 20
    await once(scheduler, A, 60.0)
    await once(scheduler, B)
    engines.late, engines.failures["demand c"] = [10, 10], [None, EngineError("c needs 10 GB, 0 GB free")]
    await once(scheduler, C)
    assert engines.events == ["start a", "start b", "stop a", "start c"]


async def test_memory_that_a_driver_does_not_give_back(
    scheduler: LocalScheduler, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_RETURN_S", 0.01)
    engines.demand_of_all, engines.memory = Demand.exactly(10), 20
    await once(scheduler, A, 60.0)
    await once(scheduler, B)
    engines.late = [10] * 100_000
    await asyncio.wait_for(once(scheduler, C), 2)
    assert engines.events == ["start a", "start b", "stop a", "stop b", "start c"]


async def test_close_stops_all_at_once(scheduler: LocalScheduler, engines: Engines) -> None:
    for model in (A, B, C):
        await once(scheduler, model)
    engines.held = {"stop"}
    closing = asyncio.create_task(scheduler.close())
    await settle()
    assert {engine.state for engine in engines.made} == {State.STOPPING}
    engines.release()
    await asyncio.wait_for(closing, 1)
