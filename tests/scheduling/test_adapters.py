"""Adapters: on their base's engine, by the names that it knows them by."""

import asyncio
import logging

import pytest

from tests.scheduling.conftest import Make
from tests.scheduling.plain import INF, A, B, Engines, User, adapter, names, once, settle, until, users_of
from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.models.names import parse
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.plan import AdapterLimits

X, Y, Z = (adapter(name, "a") for name in "xyz")


async def test_an_adapter_is_loaded_at_its_first_use(scheduler: LocalScheduler, engines: Engines) -> None:
    for model in (A, X, X, A, Y):
        lease = await once(scheduler, model)
        assert (lease.client, lease.model.name, lease.model.engine_name) == ("a", model.name, model.engine_name)  # type: ignore[comparison-overlap]
    assert engines.events == ["start a", "load x", "load y"]
    assert names(scheduler) == ["a", "x", "y"]


async def test_an_adapter_asked_for_first_brings_its_base(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, X)
    assert engines.last.model.adapter is X.adapter, "the engine is made for it"
    assert names(scheduler) == ["x"]
    await once(scheduler, A)
    assert engines.events == ["start a", "load x"]


async def test_one_load_for_all_that_wait_while_the_base_goes_on(scheduler: LocalScheduler, engines: Engines) -> None:
    streaming = User(scheduler, A)
    await streaming.entered()
    engines.held = {"load", "start b"}
    users = [User(scheduler, X) for _ in range(5)]
    await settle()
    other = User(scheduler, B)
    await settle()
    assert {loaded.model.name.model: loaded.state for loaded in scheduler.loaded()} == {
        "a": State.READY, "x": State.STARTING, "b": State.STARTING,
    }  # fmt: skip
    await once(scheduler, A)
    engines.release("load")
    for user in users:
        await user.entered()
    assert other.lease is None, "it was not behind another engine's start"
    assert engines.events == ["start a", "load x", "start b"]
    engines.release()
    await other.entered()
    for user in (*users, streaming, other):
        await user.leave()


async def test_names_of_one_adapter_share_it(scheduler: LocalScheduler, engines: Engines) -> None:
    alias = adapter("alias", "a")
    alias = type(X)(parse("alias"), source="a", engine_name="x", adapter=X.adapter)
    await once(scheduler, X)
    await once(scheduler, alias)
    scheduler.unload(X)
    await until(lambda: names(scheduler) == ["alias"])
    await once(scheduler, A)
    scheduler.unload(alias)
    await until(lambda: names(scheduler) == ["a"])
    await settle()
    assert engines.events == ["start a", "load x", "unload x"]
    await once(scheduler, X)
    assert engines.events[3:] == ["load x"]


async def test_the_least_recently_used_makes_place(scheduler: LocalScheduler, engines: Engines) -> None:
    for model in (X, Y, X, Z, X, Y):
        await once(scheduler, model)
        await settle()
    assert engines.events == ["start a", "load x", "load y", "unload y", "load z", "unload z", "load y"]
    assert names(scheduler) == ["x", "y"]


async def test_all_are_in_use(scheduler: LocalScheduler, engines: Engines) -> None:
    holders = [User(scheduler, X), User(scheduler, Y)]
    for user in holders:
        await user.entered()
    waiting = User(scheduler, Z)
    await settle()
    await once(scheduler, A)
    assert names(scheduler) == ["x", "y", "z", "a"]
    newcomers = [User(scheduler, X), User(scheduler, Y)]
    await settle()
    assert sorted(user.lease is None for user in newcomers) == [False, True], "one makes place, or z would never come"
    closed = next(index for index, user in enumerate(newcomers) if user.lease is None)
    await holders[closed].leave()
    await waiting.entered()
    assert newcomers[closed].lease is None
    await waiting.leave()
    await newcomers[closed].entered()
    for user in (holders[1 - closed], *newcomers):
        await user.leave()


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_waits_for_a_place_leaves(scheduler: LocalScheduler, engines: Engines, leaves: bool) -> None:
    """Nobody makes way for it any more, and it is not shown."""
    holders = [User(scheduler, X), User(scheduler, Y)]
    for user in holders:
        await user.entered()
    waiting = User(scheduler, Z)
    await settle()
    newcomers = [User(scheduler, X), User(scheduler, Y)]
    await settle()
    if leaves:
        await waiting.cancel()
        for user in newcomers:
            await user.entered()
        assert names(scheduler) == ["x", "y"]
    for user in (*holders, *newcomers):
        user.may_leave.set()
    if not leaves:
        assert (await waiting.entered()) == "a"
        await waiting.leave()
    await asyncio.wait({user.task for user in (*holders, *newcomers)})
    assert users_of(scheduler) == 0


async def test_a_load_that_fails(scheduler: LocalScheduler, engines: Engines, caplog: pytest.LogCaptureFixture) -> None:
    base = User(scheduler, A)
    await base.entered()
    engines.failures["load x"] = [EngineError("x is broken", "merge it")] * 2
    users, other = [User(scheduler, X), User(scheduler, X)], User(scheduler, Y)
    assert {str(await user.failure()) for user in users} == {"x is broken: merge it"}
    assert await other.entered() == "a"
    assert names(scheduler) == ["a", "y"]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert str(await User(scheduler, X).failure()) == "x is broken: merge it"
    await once(scheduler, X)
    assert engines.events == ["start a", "load x", "load y", "load x", "load x"]
    await base.leave()
    await other.leave()


async def test_a_load_that_fails_keeps_the_engine_that_was_started_for_it(make: Make, engines: Engines) -> None:
    scheduler = make(keep_alive=300.0)
    engines.failures["load x"] = [EngineError("x is broken")]
    with pytest.raises(EngineError):
        await once(scheduler, X)
    await settle()
    assert names(scheduler) == []
    await once(scheduler, X)
    assert engines.events == ["start a", "load x", "load x"]
    scheduler.unload(X)
    await until(lambda: engines.events[3:] == ["stop a"])


@pytest.mark.parametrize("limits", [None, AdapterLimits(slots=2, rank=4)])
async def test_an_engine_that_is_not_up_to_it_is_started_anew(
    scheduler: LocalScheduler, engines: Engines, limits: AdapterLimits | None
) -> None:
    engines.limits = limits
    streaming = User(scheduler, A)
    await streaming.entered()
    engines.limits = AdapterLimits(slots=2, rank=8)
    wants, newcomer = User(scheduler, X), User(scheduler, A)
    await settle()
    assert (wants.lease, newcomer.lease, engines.events) == (None, None, ["start a"])
    await streaming.leave()
    assert await wants.entered() == await newcomer.entered() == "a"
    assert engines.events == ["start a", "stop a", "start a", "load x"]
    assert engines.last.model.adapter is X.adapter
    await wants.leave()
    await newcomer.leave()


async def test_pinned_names_stay_on_an_engine_that_is_started_anew(make: Make, engines: Engines) -> None:
    scheduler = make(keep_alive=0.0, pinned=frozenset({A.name.key}))
    engines.limits = None
    await once(scheduler, A)
    engines.limits = AdapterLimits(slots=2, rank=8)
    await once(scheduler, X)
    await until(lambda: names(scheduler) == ["a"])
    await settle()
    assert engines.events == ["start a", "stop a", "start a", "load x", "unload x"]


async def test_it_need_not_be_started_anew_for_one_who_left(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.limits = None
    streaming = User(scheduler, A)
    await streaming.entered()
    wants, newcomer = User(scheduler, X), User(scheduler, A)
    await settle()
    assert newcomer.lease is None
    await wants.cancel()
    await newcomer.entered()
    await newcomer.leave()
    await streaming.leave()
    await settle()
    assert (engines.events, names(scheduler)) == (["start a"], ["a"])


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (AdapterLimits(slots=2, rank=4), "only adapters of rank 4 or less: allow more with --max-lora-rank, or"),
        (None, "no adapters:"),
    ],
)
async def test_no_engine_is_up_to_it(
    scheduler: LocalScheduler, engines: Engines, limits: AdapterLimits | None, text: str
) -> None:
    engines.limits = limits
    for _ in range(2):
        assert str(await User(scheduler, X).failure()) == (
            f"x:latest, of rank 8, cannot be loaded: its base model's engine takes {text} run `vllama merge x:latest`"
        )
    assert engines.events == ["start a"], "the same answer without a new start"


async def test_the_highest_rank_that_is_waited_for_counts(scheduler: LocalScheduler, engines: Engines) -> None:
    big = adapter("big", "a", rank=64)
    engines.limits = AdapterLimits(slots=4, rank=64)
    users = [User(scheduler, model) for model in (A, X, big, Y)]
    for user in users:
        await user.entered()
        await user.leave()
    assert engines.events == ["start a", "load x", "load big", "load y"]
    assert engines.made[0].model.name == big.name


async def test_an_engine_that_dies_takes_its_adapters_along(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, X)
    engines.held = {"load y"}
    user = User(scheduler, Y)
    await until(lambda: "load y" in engines.events)
    engines.failures["load y"] = [EngineError("the connection broke")]
    engines.last.die()
    assert names(scheduler) == ["x"]
    engines.release()
    assert await user.entered() == "a"
    assert engines.events[:3] == ["start a", "load x", "load y"]
    assert engines.events[3:] == ["stop a", "start a", "load x", "load y"]
    await user.leave()


async def test_pinned_adapters_keep_their_places(make: Make, engines: Engines) -> None:
    scheduler = make(pinned=frozenset({X.name.key}))
    for model in (X, Y, Z, Y):
        await once(scheduler, model)
    assert engines.events == ["start a", "load x", "load y", "unload y", "load z", "unload z", "load y"]
    engines.limits = AdapterLimits(slots=1, rank=8)
    engines.last.die()
    await once(scheduler, X)
    error = await User(scheduler, Y).failure()
    assert str(error).startswith(
        "y:latest cannot be loaded: all adapters that its base model's engine holds are pinned"
    )


@pytest.mark.parametrize("turns", range(10))
async def test_cancelled_at_every_await_point(scheduler: LocalScheduler, engines: Engines, turns: int) -> None:
    await once(scheduler, A)
    user, other = User(scheduler, X), User(scheduler, X)
    for _ in range(turns):
        await asyncio.sleep(0)
    user.task.cancel()
    await asyncio.wait({user.task})
    await other.entered()
    assert users_of(scheduler) == 1
    await other.leave()
    assert engines.events == ["start a", "load x"]


async def test_the_load_of_an_adapter_goes_on_when_its_clients_gave_up(make: Make, engines: Engines) -> None:
    scheduler = make(keep_alive=300.0)
    await once(scheduler, A)
    engines.held = {"load"}
    user = User(scheduler, X)
    await until(lambda: "load x" in engines.events)
    await user.cancel()
    engines.release()
    await settle()
    assert [(loaded.state, round(loaded.remaining)) for loaded in scheduler.loaded()] == [(State.READY, 300)] * 2
    await once(scheduler, X, INF)
    assert engines.events == ["start a", "load x"]


async def test_clients_that_gave_up_before_the_base_was_ready(make: Make, engines: Engines) -> None:
    scheduler = make(keep_alive=300.0)
    engines.held = {"start"}
    user = User(scheduler, X)
    await until(lambda: engines.events)
    await user.cancel()
    engines.release()
    await until(lambda: engines.events == ["start a", "load x"])
    await settle()
    assert [loaded.state for loaded in scheduler.loaded()] == [State.READY]
    assert round(scheduler.loaded()[0].remaining) == 300


async def test_close_while_an_adapter_loads(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    engines.held = {"load"}
    user = User(scheduler, X)
    await until(lambda: "load x" in engines.events)
    await asyncio.wait_for(scheduler.close(), 1)
    assert str(await user.failure()).startswith("the server is stopping")
    assert engines.events == ["start a", "load x", "stop a"]


async def test_an_unload_that_fails_frees_the_place(
    scheduler: LocalScheduler, engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    engines.failures["unload"] = [EngineError("it forgot")]
    for model in (X, Y, Z):
        await once(scheduler, model)
    assert "x: unloading the adapter failed: it forgot" in caplog.text
    assert names(scheduler) == ["y", "z"]
