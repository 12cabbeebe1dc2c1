"""Who waits for what, who is let in when, and what is left."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import pytest

from tests.scheduling.conftest import Clock, Make
from tests.scheduling.plain import INF, A, B, C, Engines, User, once, settle, until, users_of
from vllama.engine.engine import State
from vllama.errors import ApiError, EngineError
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.scheduler import Lease, Loaded
from vllama.scheduling.tenant import Tenant


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
    scheduler: LocalScheduler,
    engines: Engines,
    clock: Clock,
    failure: BaseException,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engines.failures["fetch a"] = [failure]
    users, other = [User(scheduler, A) for _ in range(3)], User(scheduler, B)
    assert {str(await user.failure()) for user in users} == {text}
    assert all(isinstance(user.task.exception(), EngineError) for user in users)
    assert await other.entered() == "b"
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    await other.leave()
    await clock.skip(1)
    await once(scheduler, A)  # the next one tries again


async def test_a_start_that_fails_leaves_nothing_loaded(
    scheduler: LocalScheduler, engines: Engines, clock: Clock
) -> None:
    engines.held = {"start"}
    user = User(scheduler, A)
    await until(lambda: engines.made)
    engines.failures["start"] = [EngineError("no memory")]
    engines.release()
    assert str(await user.failure()) == "no memory"
    assert scheduler.loaded() == []
    await clock.skip(1)
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
async def test_cancelled_at_every_await_point(
    scheduler: LocalScheduler, engines: Engines, clock: Clock, turns: int
) -> None:
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
    await clock.skip(1)
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
    monkeypatch.setattr(scheduler._waiters, "refuse", first_cancel(scheduler._waiters.refuse))
    await settle()
    engines.release()
    if outcome == "closed":
        await scheduler.close()
    await asyncio.wait({user.task}, timeout=5)
    assert user.task.cancelled()
    assert user.lease is None
    assert users_of(scheduler) == 0
    assert scheduler.loaded() == ([Loaded(A, INF, 4096, State.READY, 1)] if outcome == "granted" else [])
