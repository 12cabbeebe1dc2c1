"""What is told of each engine, and that whoever watches learns when it changes."""

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.scheduling.conftest import Clock, Make
from tests.scheduling.plain import A, B, Engines, User, adapter, base, once, settle, until
from vllama.engine.engine import State
from vllama.engine.progress import Phase
from vllama.errors import EngineError
from vllama.scheduling.failures import Failures
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.report import Report


def told(scheduler: LocalScheduler, weights: str = "a") -> Report:
    (report,) = (report for report in scheduler.reports() if report.weights == weights)
    return report


async def test_a_life(make: Make, engines: Engines, clock: Clock) -> None:
    scheduler = make(max_loaded=1)
    engines.can_sleep = True
    engines.held = {"fetch a", "start a", "sleep a", "stop a"}
    users = [User(scheduler, A), User(scheduler, adapter("x", "a"))]
    await settle()
    await clock.skip(10)
    report = told(scheduler)
    assert replace(report, seconds=0.0) == Report(
        "a", ("a:latest", "x:latest"), State.STARTING, Phase.DOWNLOADING, 0.75, "3 of 4 GB", waiting=2
    )
    assert round(report.seconds) == 10

    engines.release("fetch a")
    await until(lambda: engines.made)
    engine = engines.last
    engine.progress.enter(Phase.READING)
    engine.progress.fraction, engine.progress.detail = 0.5, "1 of 2"
    engine.fast = True
    report = told(scheduler)
    assert (report.phase, report.fraction, report.detail) == (Phase.READING, 0.5, "1 of 2")
    assert [(step.phase, round(step.seconds)) for step in report.steps] == [(Phase.DOWNLOADING, 10)]
    assert (report.size, report.pid, report.log, report.fast, report.client) == (1, 100, Path("log"), True, None)

    engine.progress.enter(None)
    engines.release("start a")
    for user in users:
        await user.entered()
    report = told(scheduler)
    assert (report.state, report.phase, report.requests, report.waiting) == (State.READY, None, 2, 0)
    assert [step.phase for step in report.steps] == [Phase.DOWNLOADING, Phase.READING]
    assert (round(report.seconds), report.client) == (0, "a")
    for user in users:
        await user.leave()
    await clock.skip(7)
    assert (round(told(scheduler).seconds), told(scheduler).requests) == (7, 0)

    other = User(scheduler, B)
    await until(lambda: "sleep a" in engines.events)
    assert (told(scheduler).state, told(scheduler).client) == (State.READY, None)
    engines.release("sleep a")
    await other.entered()
    assert (told(scheduler).state, round(told(scheduler).seconds)) == (State.ASLEEP, 0)

    scheduler.unload(A)
    scheduler.unload(adapter("x", "a"))
    await settle()
    assert told(scheduler).state is State.STOPPING
    engines.release()
    await until(lambda: [report.weights for report in scheduler.reports()] == ["b"])
    await other.leave()


async def test_one_that_waits_for_room(make: Make, engines: Engines) -> None:
    scheduler = make(max_loaded=1)
    user = User(scheduler, A)
    await user.entered()
    waiting = User(scheduler, B)
    await settle()
    assert (told(scheduler, "b").state, told(scheduler, "b").phase) == (State.STARTING, Phase.WAITING)
    assert (told(scheduler, "b").waiting, told(scheduler, "b").detail) == (1, "")
    await user.leave()
    await waiting.entered()
    await waiting.leave()


async def test_one_that_died(scheduler: LocalScheduler, engines: Engines, clock: Clock) -> None:
    user = User(scheduler, A)
    await user.entered()
    engines.last.die("killed: buy memory")
    report = told(scheduler)
    assert (report.state, report.error, report.requests) == (
        State.FAILED,
        "the engine of a was lost: killed: buy memory",
        1,
    )
    await user.leave()
    await until(lambda: told(scheduler).state is State.READY)
    await settle()
    assert (told(scheduler).restarts, told(scheduler).error) == (1, "")
    engines.last.die()
    await settle()
    report = told(scheduler)
    assert (report.state, report.phase) == (State.STARTING, Phase.RESTARTING)
    assert report.error == "the engine of a was lost: killed: buy memory"
    await clock.skip(5)


async def test_one_that_did_not_start(scheduler: LocalScheduler, engines: Engines, clock: Clock) -> None:
    engines.failures["start a"] = [EngineError("no memory", "buy some")]
    await User(scheduler, A).failure()
    await clock.skip(20)
    report = told(scheduler)
    assert replace(report, seconds=0.0) == Report(
        "a", ("a:latest",), State.FAILED, error="no memory: buy some", log=Path("log")
    )
    assert round(report.seconds) == 20
    await once(scheduler, A)
    assert (told(scheduler).state, told(scheduler).error) == (State.READY, "")


async def test_failures_are_bounded(scheduler: LocalScheduler, engines: Engines) -> None:
    engines.failures["fetch"] = [EngineError("no such repository")] * 120
    for number in range(120):
        await User(scheduler, base(f"m{number}")).failure()
    assert [report.weights for report in scheduler.reports()] == [f"m{number}" for number in range(20, 120)]


def test_weights_without_failures() -> None:
    failures = Failures(lambda: 0.0)
    assert (failures.held("a"), failures.error("a"), failures.restarts("a"), failures.reports()) == (None, None, 0, [])
    failures.forgive("a")


async def test_every_change_is_noted(scheduler: LocalScheduler, engines: Engines, clock: Clock) -> None:
    """Whoever looks at each change has seen all there was to see."""
    seen: list[tuple[object, ...]] = []

    async def watch() -> None:
        count = -1
        while True:
            count = await scheduler.changes.after(count)
            for report in scheduler.reports():
                now = report.state, report.phase, report.requests, report.waiting, report.error
                if now not in seen:
                    seen.append(now)

    watching = asyncio.create_task(watch())
    engines.held = {"fetch", "start", "stop"}
    user = User(scheduler, A)
    for event in ("fetch", "start"):
        await settle()
        engines.release(event)
        await settle()
    engines.last.progress.enter(Phase.WARMING)
    await settle()
    engines.last.progress.enter(None)
    await user.leave()
    await settle()
    engines.last.die("killed")
    await settle()
    engines.release()
    await settle()
    scheduler.unload(A)
    await until(lambda: not scheduler._residents)
    await settle()
    watching.cancel()
    await asyncio.wait({watching})
    ended = "the engine of a was lost: killed"
    assert seen == [
        (State.STARTING, Phase.DOWNLOADING, 0, 1, ""),
        (State.STARTING, Phase.WAITING, 0, 1, ""),
        (State.STARTING, None, 0, 1, ""),
        (State.READY, None, 1, 0, ""),
        (State.READY, Phase.WARMING, 1, 0, ""),
        (State.READY, None, 0, 0, ""),
        (State.FAILED, None, 0, 0, ended),
        (State.STARTING, Phase.DOWNLOADING, 0, 0, ended),
        (State.STARTING, Phase.WAITING, 0, 0, ended),
        (State.STARTING, None, 0, 0, ended),
        (State.STOPPING, None, 0, 0, ""),
    ]
    assert scheduler.reports() == []
