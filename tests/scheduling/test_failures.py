"""Starts that fail: who is told, and when the next is tried."""

import logging

import pytest

from tests.scheduling.conftest import Clock, Make
from tests.scheduling.plain import A, B, Engines, User, adapter, once, settle, until
from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.scheduling.local import LocalScheduler

X = adapter("x", "a")


def starts(engines: Engines, name: str = "a") -> int:
    return engines.events.count(f"start {name}")


async def test_a_crowd_that_asks_again_starts_nothing(
    scheduler: LocalScheduler, engines: Engines, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    engines.failures["start a"] = [EngineError("no memory", "buy some")] * 3
    for tries, seconds in enumerate((1, 2, 4), start=1):
        for _ in range(3):
            error = await User(scheduler, A).failure()
            assert (type(error), str(error)) == (EngineError, "no memory: buy some")
            await clock.skip(seconds / 3 - 0.1)
        assert starts(engines) == tries
        await clock.skip(0.3)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3, "once for each try"
    await once(scheduler, A)


async def test_other_names_of_the_weights_are_told_too(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.failures["start a"] = [EngineError("no memory")]
    assert str(await User(scheduler, A).failure()) == str(await User(scheduler, X).failure()) == "no memory"
    await once(scheduler, B)


async def test_what_lacks_only_room_is_tried_at_once(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=1, pinned=frozenset({A.name.key}))
    user = User(scheduler, A)
    await user.entered()
    with pytest.raises(EngineError, match="a:latest is pinned"):
        await once(scheduler, B)
    engines.failures["demand b"] = [EngineError("the GPU has 24 GB"), EngineError("the GPU has 23 GB")]
    for size in ("24", "23"):
        with pytest.raises(EngineError, match=size):
            await once(scheduler, B)
    assert scheduler.reports()[1].error == "the GPU has 23 GB"
    await user.leave()


async def test_the_queue_is_not_filled(make: Make, engines: Engines) -> None:
    scheduler = make(max_queue=1)
    engines.failures["start a"] = [EngineError("no memory")]
    await User(scheduler, A).failure()
    assert {str(await user.failure()) for user in [User(scheduler, A) for _ in range(3)]} == {"no memory"}


async def test_a_client_that_leaves_the_next_try(scheduler: LocalScheduler, engines: Engines, clock: Clock) -> None:
    """The failure is shown until an engine is ready."""
    engines.failures["start a"] = [EngineError("no memory")]
    await User(scheduler, A).failure()
    await clock.skip(1)
    engines.held = {"start a"}
    user = User(scheduler, A, 0.0)
    await until(lambda: starts(engines) == 2)
    assert [(report.state, report.error) for report in scheduler.reports()] == [(State.STARTING, "no memory")]
    await user.cancel()
    await until(lambda: not engines.alive)
    await settle()
    assert [(report.state, report.error) for report in scheduler.reports()] == [(State.FAILED, "no memory")]


async def test_what_is_kept_of_a_failure_holds_no_request(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.failures["start a"] = [EngineError("no memory", "buy some")]
    error = await User(scheduler, A).failure()
    kept = scheduler._failures.error(A.weights)
    assert (type(kept), str(kept)) == (type(error), str(error))
    assert kept is not None
    assert kept.__traceback__ is None
    assert error.__traceback__ is not None
