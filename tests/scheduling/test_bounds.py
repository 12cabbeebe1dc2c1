"""Requests in flight on one engine."""

import contextlib

import pytest

from tests.scheduling.conftest import Make
from tests.scheduling.plain import A, B, Engines, User, adapter, settle
from vllama.engine.client import EngineClient
from vllama.errors import ApiError
from vllama.models.catalogue import Catalogue
from vllama.overload import BUSY
from vllama.scheduling.attached import AttachedScheduler


async def refused(user: User) -> None:
    error = await user.failure()
    assert isinstance(error, ApiError)
    assert (error.status, error.message) == (503, BUSY)


async def test_no_more_than_the_bound_use_an_engine(make: Make) -> None:
    scheduler = make(max_requests=2)
    users = [User(scheduler, A), User(scheduler, A)]
    for user in users:
        await user.entered()
    await refused(User(scheduler, A))
    other = User(scheduler, B)
    assert await other.entered() == "b"
    await users[0].cancel()
    users[0] = User(scheduler, A)
    assert await users[0].entered() == "a"
    await refused(User(scheduler, A))
    for user in (*users, other):
        await user.leave()


async def test_those_who_wait_for_it_count(make: Make, engines: Engines) -> None:
    scheduler = make(max_requests=2)
    engines.held = {"start"}
    users = [User(scheduler, A), User(scheduler, A)]
    await settle()
    await refused(User(scheduler, A))
    await users[0].cancel()
    users[0] = User(scheduler, A)
    await settle()
    engines.release()
    for user in users:
        assert await user.entered() == "a"
    await refused(User(scheduler, A))
    for user in users:
        await user.leave()


async def test_adapters_count_with_their_base(make: Make) -> None:
    scheduler = make(max_requests=2)
    users = [User(scheduler, A), User(scheduler, adapter("x", "a"))]
    for user in users:
        await user.entered()
    await refused(User(scheduler, A))
    await refused(User(scheduler, adapter("y", "a")))
    for user in users:
        await user.leave()


async def test_a_server_that_somebody_else_runs() -> None:
    scheduler = AttachedScheduler(EngineClient("http://127.0.0.1:1"), Catalogue([]), max_requests=2)
    async with contextlib.AsyncExitStack() as users:
        for model in (A, B):
            await users.enter_async_context(scheduler.acquire(model))
        with pytest.raises(ApiError, match="server busy"):
            await users.enter_async_context(scheduler.acquire(A))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with scheduler.acquire(A):
                raise ZeroDivisionError
    async with scheduler.acquire(A), scheduler.acquire(A):
        pass
    await scheduler.close()
