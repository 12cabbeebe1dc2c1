"""POST /api/warmup: before a scheduler that the tests lead, and before the real one."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.conftest import Alone
from tests.each import each
from tests.routes.led import LedScheduler
from vllama.engine.engine import State
from vllama.engine.progress import Phase, Step
from vllama.errors import ApiError, EngineError
from vllama.overload import BUSY
from vllama.routes import _loading

TOO_LARGE = EngineError("demo needs 80 GB of GPU memory, 24 GB are there", "try a smaller model")
TOLD = "demo needs 80 GB of GPU memory, 24 GB are there: try a smaller model"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loading, "_AT_ONCE_S", 0.05)
    monkeypatch.setattr(_loading, "_PAUSE_S", 0.0)


class Lines:
    """A stream's objects as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> Any:
        async with asyncio.timeout(10):
            return json.loads(await anext(self._lines))


@contextlib.asynccontextmanager
async def warm(alone: Alone, **fields: Any) -> AsyncIterator[Lines]:
    async with alone.api.stream("POST", "/api/warmup", json={"model": "demo"} | fields) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        yield Lines(response)


async def test_a_load_is_told_step_by_step(alone: Alone, scheduler: LedScheduler) -> None:
    async with warm(alone) as lines:
        waiting = {"status": "waiting for room", "phase": "waiting for room", "fraction": None, "detail": ""}
        assert await lines.next() == waiting | {"seconds": 0.0}
        imported, read = Step(Phase.IMPORTING, 3.1), Step(Phase.READING, 2.0)
        scheduler.tell(phase=Phase.IMPORTING, seconds=1.25)
        assert await lines.next() == waiting | {"status": "importing", "phase": "importing", "seconds": 1.25}
        scheduler.tell(phase=Phase.READING, fraction=0.5, detail="1 of 2", steps=(imported,), seconds=4.1)
        half = {"status": "reading weights", "phase": "reading weights", "fraction": 0.5, "detail": "1 of 2"}
        assert await lines.next() == half | {"seconds": 1.0}
        scheduler.tell(state=State.READY, phase=None, steps=(imported, read), seconds=0.0)
        scheduler.ready.set()
        done = await lines.next()
        assert done.pop("total_duration") > 0
        phases = [{"phase": "importing", "seconds": 3.1}, {"phase": "reading weights", "seconds": 2.0}]
        assert done == {"status": "success", "phases": phases}
        with pytest.raises(StopAsyncIteration):
            await lines.next()


@pytest.mark.parametrize("phase", [Phase.DOWNLOADING, Phase.WAITING])
async def test_what_comes_before_there_is_an_engine(alone: Alone, scheduler: LedScheduler, phase: Phase) -> None:
    async with warm(alone) as lines:
        await lines.next()
        scheduler.tell(phase=phase, fraction=0.25)
        line = await lines.next()
        assert (line["status"], line["fraction"]) == (phase, 0.25)
        scheduler.ready.set()


async def test_a_sleeping_engine_wakes_up(alone: Alone, scheduler: LedScheduler) -> None:
    async with warm(alone) as lines:
        await lines.next()
        scheduler.tell(state=State.ASLEEP)
        assert (await lines.next())["status"] == "waking up"
        scheduler.ready.set()


async def test_the_seconds_go_on(alone: Alone, scheduler: LedScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loading, "_TICK_S", 0.02)
    async with warm(alone) as lines:
        assert [(await lines.next())["status"] for _ in range(3)] == 3 * ["waiting for room"]
        scheduler.ready.set()


async def test_news_of_others_are_no_line(alone: Alone, scheduler: LedScheduler) -> None:
    async with warm(alone) as lines:
        await lines.next()
        for _ in range(5):
            scheduler.changes.note()
            await alone.api.get("/api/version")
        scheduler.tell(phase=Phase.IMPORTING)
        assert (await lines.next())["status"] == "importing"
        scheduler.ready.set()


async def test_a_model_that_is_loaded(alone: Alone, scheduler: LedScheduler, models: dict[str, Any]) -> None:
    scheduler.tell(weights=models["demo"].weights, names=("demo",), state=State.READY, steps=(Step(Phase.WARMING, 9),))
    scheduler.ready.set()
    response = await alone.api.post("/api/warmup", json={"model": "demo"})
    (line,) = response.text.splitlines()
    assert (json.loads(line)["status"], json.loads(line)["phases"]) == ("success", [])


async def test_in_one_object(alone: Alone, scheduler: LedScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loading, "_TICK_S", 0.02)
    asyncio.get_running_loop().call_later(0.1, scheduler.ready.set)
    response = await alone.api.post("/api/warmup", json={"model": "demo", "stream": False})
    assert response.headers["content-type"].startswith("application/json")
    assert response.json()["status"] == "success"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("failure", "status", "text"), [(TOO_LARGE, 500, TOLD), (ApiError(503, BUSY), 503, BUSY)], ids=["large", "busy"]
)
async def test_a_load_that_fails_at_once(
    alone: Alone, scheduler: LedScheduler, failure: Exception, status: int, text: str, stream: bool
) -> None:
    scheduler.failure = failure
    scheduler.ready.set()
    response = await alone.api.post("/api/warmup", json={"model": "demo", "stream": stream})
    assert (response.status_code, response.json()) == (status, {"error": text})


async def test_a_load_that_fails_later(alone: Alone, scheduler: LedScheduler) -> None:
    async with warm(alone) as lines:
        await lines.next()
        scheduler.failure = TOO_LARGE
        scheduler.ready.set()
        assert await lines.next() == {"error": TOLD}
        with pytest.raises(StopAsyncIteration):
            await lines.next()


@each(
    ("body", "status", "text"),
    [
        ({}, 400, "model is required"),
        ({"model": " "}, 400, "model is required"),
        ({"model": "missing"}, 404, "model 'missing' not found"),
        ({"model": 5}, 400, "invalid request: model: expected string, got integer"),
        ({"model": "demo", "stream": "yes"}, 400, "invalid request: stream: expected boolean, got string"),
        ({"model": "demo", "keep_alive": "long"}, 400, 'time: invalid duration "long"'),
        ({"model": "demo", "keep_alive": []}, 400, "Unsupported type: '[]interface {}'"),
    ],
)
async def test_what_is_wrong_is_said(alone: Alone, body: dict[str, Any], status: int, text: str) -> None:
    response = await alone.api.post("/api/warmup", json=body)
    assert (response.status_code, response.json()) == (status, {"error": text})


@pytest.mark.parametrize(("keep_alive", "seconds"), [("10m", 600.0), (-1, float("inf")), (None, None), (0, 0.0)])
async def test_how_long_it_stays(alone: Alone, scheduler: LedScheduler, keep_alive: Any, seconds: float | None) -> None:
    scheduler.ready.set()
    await alone.api.post("/api/warmup", json={"model": "demo", "keep_alive": keep_alive})
    assert scheduler.asked == [seconds]


async def test_a_real_load(alone: Alone) -> None:
    alone.next_place["held"] = True
    async with warm(alone, keep_alive=-1) as lines:
        assert (await lines.next())["status"]
        alone.place.may_start.set()
        while (line := await lines.next())["status"] != "success":
            pass
        assert line["total_duration"] > 0
    assert [loaded.state for loaded in alone.scheduler.loaded()] == [State.READY]


async def test_a_client_that_leaves_does_not_stop_what_others_wait_for(alone: Alone) -> None:
    alone.next_place["held"] = True
    async with warm(alone) as staying:
        await staying.next()
        async with warm(alone) as leaving:
            await leaving.next()
        alone.place.may_start.set()
        while (await staying.next())["status"] != "success":
            pass
    assert len(alone.places) == 1


async def test_a_server_that_stops_ends_it(alone: Alone) -> None:
    alone.next_place["held"] = True
    async with warm(alone) as lines:
        await lines.next()
        alone.gateway.drain()
        line = await lines.next()
        while "error" not in line:
            line = await lines.next()
        assert line == {"error": "the server is stopping: send the request again"}
