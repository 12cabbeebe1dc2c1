"""Who waits for what, who is let in when, and what is left."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

import pytest
import uvloop

from tests.scheduling.conftest import Make
from tests.scheduling.plain import INF, A, B, C, Engines, User, closing, once, settle, until, users_of
from vllama.engine.engine import State
from vllama.errors import ApiError, EngineError
from vllama.models.catalogue import Model
from vllama.models.names import parse
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.resident import Tenant
from vllama.scheduling.scheduler import Lease, Loaded


async def test_a_lease_tells_of_the_engine(scheduler: LocalScheduler, engines: Engines) -> None:
    async with scheduler.acquire(A) as lease:
        assert lease == Lease("a", A, 4096)  # type: ignore[arg-type]
        assert scheduler.loaded() == [Loaded(A, INF, 4096, State.READY, 1)]


async def test_one_load_for_all_that_wait(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.held = {"start"}
    users = [User(scheduler, A) for _ in range(10)]
    await until(lambda: engines.made)
    users += [User(scheduler, A) for _ in range(5)]
    await settle()
    assert not any(user.lease for user in users)
    engines.release()
    assert {await user.entered() for user in users} == {"a"}
    assert users_of(scheduler) == 15
    for user in users:
        await user.leave()
    assert engines.events == ["start a"]


async def test_names_match_without_regard_to_case(scheduler: LocalScheduler, engines: Engines) -> None:
    await once(scheduler, A)
    await once(scheduler, Model(parse("A:LATEST"), source="a", engine_name="a"))
    assert engines.events == ["start a"]


async def test_a_swap_waits_for_the_users(single: LocalScheduler, engines: Engines) -> None:
    first, second = User(single, A), User(single, A)
    await first.entered()
    await second.entered()
    waiting = User(single, B)
    await first.leave()
    await settle()
    assert engines.events == ["start a"]
    await second.leave()
    assert await waiting.entered() == "b"
    assert engines.events == ["start a", "stop a", "start b"]
    await waiting.leave()


async def test_a_swap_is_not_starved_and_models_take_turns(single: LocalScheduler, engines: Engines) -> None:
    old = User(single, A)
    await old.entered()
    swap = User(single, B)
    await settle()
    late, other, late_too = (User(single, model) for model in (A, C, B))
    await settle()
    assert late.lease is None, "it would keep the others waiting"
    await old.leave()
    assert await swap.entered() == await late_too.entered() == "b"
    await swap.leave()
    await settle()
    assert late.lease is None
    await late_too.leave()
    assert await late.entered() == "a"
    await late.leave()
    assert await other.entered() == "c"
    await other.leave()
    assert engines.events[::2] == ["start a", "start b", "start a", "start c"]


async def test_a_swap_that_nobody_waits_for_any_more_is_off(single: LocalScheduler, engines: Engines) -> None:
    old = User(single, A)
    await old.entered()
    swap, late = User(single, B), User(single, A)
    await settle()
    await swap.cancel()
    assert await late.entered() == "a"
    await old.leave()
    await late.leave()
    await settle()
    assert engines.events == ["start a"]


async def test_a_swap_called_off_as_the_last_user_leaves(single: LocalScheduler, engines: Engines) -> None:
    old = User(single, A)
    await old.entered()
    swap = User(single, B)
    await settle()
    old.may_leave.set()
    swap.task.cancel()
    await asyncio.wait({old.task, swap.task})
    async with single.acquire(A):
        await settle()
        assert engines.last.state is State.READY, "unloaded under its user"


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (EngineError("no memory", "take a smaller model"), "no memory: take a smaller model"),
        (ValueError("odd"), "loading a:latest failed: ValueError('odd'): this is a fault of vllama's: report it"),
        (
            asyncio.CancelledError(),
            "loading a:latest failed: CancelledError(): this is a fault of vllama's: report it",
        ),
    ],
)
async def test_a_failure_reaches_all_that_wait_for_the_model_and_nobody_else(
    scheduler: LocalScheduler, engines: Engines, failure: BaseException, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    engines.failures["fetch a"] = [failure]
    users, other = [User(scheduler, A) for _ in range(3)], User(scheduler, B)
    assert {str(await user.failure()) for user in users} == {text}
    assert all(isinstance(user.task.exception(), EngineError) for user in users)
    assert await other.entered() == "b"
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    await other.leave()
    await once(scheduler, A)  # the next one tries again


async def test_a_start_that_fails_leaves_nothing_loaded(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.held = {"start"}
    user = User(scheduler, A)
    await until(lambda: engines.made)
    engines.failures["start"] = [EngineError("no memory")]
    engines.release()
    assert str(await user.failure()) == "no memory"
    assert scheduler.loaded() == []
    await once(scheduler, A)
    assert engines.events == ["start a", "stop a", "start a"]


@pytest.mark.parametrize("held", ["fetch", "start"])
async def test_a_client_that_leaves_costs_the_others_nothing(
    scheduler: LocalScheduler, engines: Engines, held: str
) -> None:
    engines.held = {held}
    first, second = User(scheduler, A), User(scheduler, A)
    await settle()
    await first.cancel()
    await settle()
    engines.release()
    assert await second.entered() == "a"
    assert users_of(scheduler) == 1
    await second.leave()


@pytest.mark.parametrize("held", ["fetch", "start"])
async def test_a_load_goes_on_when_its_clients_gave_up(scheduler: LocalScheduler, engines: Engines, held: str) -> None:
    """Those with a time limit below a cold start would never be served if each began anew."""
    engines.held = {held}
    user = User(scheduler, A)
    await settle()
    await user.cancel()
    await settle()
    engines.release()
    await once(scheduler, A)
    assert engines.events == ["start a"]


@pytest.mark.parametrize("held", ["fetch", "start"])
async def test_a_load_for_nobody_gives_way(single: LocalScheduler, engines: Engines, held: str) -> None:
    engines.held = {held}
    user = User(single, A)
    await settle()
    await user.cancel()
    engines.held = set()
    await once(single, B)
    assert engines.events == (["start a", "stop a"] if held == "start" else []) + ["start b"]


async def test_a_load_that_gives_way_is_cleaned_up_first(single: LocalScheduler, engines: Engines) -> None:
    engines.held = {"start", "stop"}
    user = User(single, A)
    await settle()
    await user.cancel()
    other, again = User(single, B), User(single, A)
    await again.cancel()
    await settle()
    engines.release()
    assert await other.entered() == "b"
    await other.leave()


async def test_an_unload_ends_a_load_for_nobody(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.held = {"start"}
    user = User(scheduler, A)
    await settle()
    await user.cancel()
    scheduler.unload(A)
    await until(lambda: engines.events == ["start a", "stop a"])
    assert scheduler.loaded() == []


async def test_an_unload_during_a_load_waits_for_the_users(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.held = {"start"}
    user = User(scheduler, A)
    await settle()
    scheduler.unload(A)
    await settle()
    engines.release()
    await user.entered()
    await settle()
    assert engines.events == ["start a"]
    await user.leave()
    await until(lambda: engines.events == ["start a", "stop a"])


async def test_too_many_wait(make: Make, engines: Engines) -> None:
    scheduler = make(max_queue=2)
    engines.held = {"start"}
    waiting = [User(scheduler, A), User(scheduler, B)]
    await settle()
    error = await User(scheduler, A).failure()
    assert isinstance(error, ApiError)
    text = "server busy, please try again.  maximum pending requests exceeded"
    assert (error.status, error.message) == (503, text)
    await waiting[1].cancel()
    third = User(scheduler, A)
    await settle()
    engines.release()
    assert await waiting[0].entered() == await third.entered() == "a"
    users = [User(scheduler, A) for _ in range(5)]  # nobody waits for what is loaded
    for user in (*users, waiting[0], third):
        assert await user.entered() == "a"
        await user.leave()


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_every_await_point(scheduler: LocalScheduler, engines: Engines, turns: int) -> None:
    """Also in the very turn of the grant, and of a failure."""
    engines.failures["fetch"] = [EngineError("no")] if turns % 2 else []
    user, other = User(scheduler, A), User(scheduler, A)
    for _ in range(turns // 2):
        await asyncio.sleep(0)
    await_cancelled = user.task.cancel()
    await asyncio.wait({user.task})
    with contextlib.suppress(EngineError):
        await other.entered()
    assert await_cancelled is user.task.cancelled() or user.task.exception() is not None
    assert users_of(scheduler) == (0 if other.task.done() else 1)
    if not other.task.done():
        await other.leave()
    await once(scheduler, A)
    assert users_of(scheduler) == 0


@pytest.mark.parametrize("outcome", ["granted", "failed", "closed"])
async def test_cancelled_in_the_turn_of_the_answer(
    scheduler: LocalScheduler, engines: Engines, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiter has its answer, and is cancelled before it wakes up."""
    engines.held = {"start"}
    engines.failures["start"] = [EngineError("no")] if outcome == "failed" else []
    user = User(scheduler, A)
    call_soon = asyncio.get_running_loop().call_soon

    def first_cancel(function: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments: (call_soon(user.task.cancel), function(*arguments))[1]

    monkeypatch.setattr(Tenant, "enter", first_cancel(Tenant.enter))
    monkeypatch.setattr(scheduler, "refuse", first_cancel(scheduler.refuse))
    await settle()
    engines.release()
    if outcome == "closed":
        await scheduler.close()
    await asyncio.wait({user.task}, timeout=5)
    assert user.task.cancelled()
    assert user.lease is None
    assert users_of(scheduler) == 0
    assert scheduler.loaded() == ([Loaded(A, INF, 4096, State.READY, 1)] if outcome == "granted" else [])


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


async def test_an_engine_that_died_is_replaced(scheduler: LocalScheduler, engines: Engines) -> None:
    user = User(scheduler, A)
    await user.entered()
    engines.last.die()
    await settle()
    assert scheduler.loaded() == []
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


async def test_chaos(make: Make, engines: Engines) -> None:
    """Many come, leave and die in every order: each user's engine serves its model, and everything ends."""
    chance = random.Random(7)
    scheduler = make(max_loaded=1, keep_alive=0.0, max_queue=50)

    async def wobble() -> None:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)

    async def request() -> None:
        model = chance.choice((A, B, C))
        async with scheduler.acquire(model, chance.choice((None, 0.0, INF))) as lease:
            assert lease.client == model.name.model  # type: ignore[comparison-overlap]
            assert engines.last.name == model.name.model
            assert engines.last.state in (State.READY, State.FAILED), "stopped under its user"
            await wobble()
            if chance.random() < 0.03:
                engines.last.die()

    tasks = []
    for _ in range(600):
        tasks.append(asyncio.create_task(request()))
        await wobble()
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.1:
            scheduler.unload(chance.choice((A, B, C)))
    await asyncio.wait(tasks, timeout=20)
    outcomes = [task.exception() for task in tasks if not task.cancelled()]
    assert {type(outcome) for outcome in outcomes} <= {type(None)}
    assert len(outcomes) > 300


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
