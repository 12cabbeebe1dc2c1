"""GET /api/engines and its events, before a scheduler that the tests lead."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Alone
from tests.fake_engine import FakeEngine, whole
from tests.routes.led import LedScheduler
from vllama.app import create_app
from vllama.engine.client import EngineClient
from vllama.engine.engine import State
from vllama.engine.progress import Phase, Step
from vllama.engine.stats import Stats
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.routes import engines as engines_module
from vllama.scheduling.attached import AttachedScheduler
from vllama.scheduling.report import Report
from vllama.security.guard import Guard
from vllama.security.keys import digest

OFF = {"state": "off", "pid": None, "memory": 0, "reason": ""}
IDLE = {"requests": 0, "max_requests": 4096, "bodies": 0, "max_bodies": 2**30}


@dataclass
class Parked:
    """A standby."""

    state: str = "parked"
    pid: int | None = 2**22 + 1  # higher than any process's
    reason: str = ""

    def memory(self) -> int:
        return 600


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "_PAUSE_S", 0.0)


def metrics(running: int, waiting: int, tokens: int) -> bytes:
    return (
        f"vllm:num_requests_running 0\nvllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\n"
        f"vllm:generation_tokens_total {tokens}\n"
    ).encode()


async def test_nothing_is_loaded(alone: Alone) -> None:
    response = await alone.api.get("/api/engines")
    assert (response.status_code, response.json()) == (200, {"engines": [], "standby": OFF, "gateway": IDLE})


async def test_a_loaded_model(alone: Alone) -> None:
    alone.engine.answer = whole(metrics(0, 0, 0))
    await alone.api.post("/api/generate", json={"model": "demo", "keep_alive": -1})
    (engine,) = (await alone.api.get("/api/engines")).json()["engines"]
    assert (engine["name"], engine["models"], engine["state"]) == ("demo:latest", ["demo:latest"], "ready")


async def test_all_that_is_told_of_a_start(alone: Alone, scheduler: LedScheduler) -> None:
    scheduler.report = Report(
        "weights", ("demo:latest", "robot:latest"), State.STARTING, Phase.READING, 0.5, "1 of 2",
        (Step(Phase.IMPORTING, 3.1),), 7.25, 2**30, waiting=2, restarts=1, error="killed: buy memory", fast=True,
        log=Path("/logs/demo.log"), pid=2**22 + 1,
    )  # fmt: skip
    assert (await alone.api.get("/api/engines")).json()["engines"] == [
        {
            "name": "demo:latest",
            "models": ["demo:latest", "robot:latest"],
            "state": "starting",
            "phase": "reading weights",
            "fraction": 0.5,
            "detail": "1 of 2",
            "phases": [{"phase": "importing", "seconds": 3.1}],
            "seconds": 7.25,
            "memory": 2**30,
            "resident": 0,
            "requests": {"running": 0, "waiting": 2},
            "tokens_per_second": None,
            "restarts": 1,
            "fast": True,
            "pid": 2**22 + 1,
            "log": "/logs/demo.log",
            "error": "killed: buy memory",
        }
    ]


async def test_what_a_ready_engine_says_of_itself(alone: Alone, scheduler: LedScheduler) -> None:
    clock = itertools.count()
    alone.gateway.stats = Stats(lambda: float(next(clock)))  # each look is later
    scheduler.report = Report("w", ("demo:latest",), State.READY, requests=5, waiting=1, client=scheduler.client)
    alone.engine.script(whole(metrics(3, 2, 0)), whole(metrics(3, 2, 60)), whole({}, status=404))
    told = [(await alone.api.get("/api/engines")).json()["engines"][0] for _ in range(3)]
    assert [one["requests"] for one in told[:2]] == 2 * [{"running": 3, "waiting": 3}]
    assert told[0]["tokens_per_second"] is None
    assert told[1]["tokens_per_second"] > 0
    assert (told[2]["requests"], told[2]["tokens_per_second"]) == ({"running": 5, "waiting": 1}, None)


async def test_an_engine_that_starts_or_sleeps_is_not_asked(alone: Alone, scheduler: LedScheduler) -> None:
    for state in (State.STARTING, State.ASLEEP, State.STOPPING, State.FAILED):
        scheduler.report = Report("w", ("demo:latest",), state, client=scheduler.client)
        await alone.api.get("/api/engines")
    assert alone.engine.asked == []


async def test_the_standby(alone: Alone) -> None:
    alone.gateway.standby = Parked()
    parked = {"state": "parked", "pid": 2**22 + 1, "memory": 600, "reason": ""}
    assert (await alone.api.get("/api/engines")).json()["standby"] == parked
    alone.gateway.standby = Parked("off", None, "memory is short")
    assert (await alone.api.get("/api/engines")).json()["standby"] == OFF | {"reason": "memory is short"}


async def test_engines_of_others_are_not_told_of(engine: FakeEngine) -> None:
    catalogue = Catalogue([])
    scheduler = AttachedScheduler(EngineClient(engine.url), catalogue)
    async with client_of(Gateway(catalogue, scheduler)) as api:
        assert (await api.get("/api/engines")).json() == {"engines": [], "standby": OFF, "gateway": IDLE}
    await scheduler.close()


@pytest.mark.parametrize("path", ["/api/engines", "/api/engines/events", "/api/warmup"])
async def test_a_key_is_asked_for(alone: Alone, path: str) -> None:
    async with client_of(alone.gateway, Guard(keys=[digest("right")])) as api:
        for method in ("GET", "POST"):
            assert (await api.request(method, path)).status_code == 401
        assert (await api.delete(path, headers={"Authorization": "Bearer right"})).status_code == 405


def client_of(gateway: Gateway, guard: Guard | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(gateway, guard or Guard()))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


class Events:
    """A stream of events as it comes."""

    def __init__(self, response: httpx.Response) -> None:
        self._text = response.aiter_text()
        self._rest = ""

    async def block(self) -> str:
        async with asyncio.timeout(10):
            while "\n\n" not in self._rest:
                self._rest += await anext(self._text)
        block, _, self._rest = self._rest.partition("\n\n")
        return block

    async def next(self) -> tuple[str, Any]:
        name, data = (await self.block()).split("\n")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@contextlib.asynccontextmanager
async def watch(alone: Alone) -> AsyncIterator[Events]:
    async with alone.api.stream("GET", "/api/engines/events") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Events(response)


async def test_events(alone: Alone, scheduler: LedScheduler) -> None:
    async with watch(alone) as events:
        assert await events.next() == ("engines", {"engines": [], "standby": OFF, "gateway": IDLE})
        scheduler.tell(weights="w", names=("demo:latest",), state=State.STARTING, phase=Phase.IMPORTING)
        name, engine = await events.next()
        assert (name, engine["name"], engine["phase"]) == ("engine", "demo:latest", "importing")
        scheduler.tell(phase=Phase.READING, fraction=0.5, detail="1 of 2", steps=(Step(Phase.IMPORTING, 1.0),))
        name, engine = await events.next()
        assert (name, engine["phase"], engine["fraction"]) == ("engine", "reading weights", 0.5)
        alone.gateway.standby = Parked()
        scheduler.changes.note()
        assert (await events.next())[0] == "standby"
        scheduler.tell(names=("robot:latest",))
        assert await events.next() == ("gone", {"name": "demo:latest"})
        assert (await events.next())[1]["name"] == "robot:latest"
        scheduler.report = None
        scheduler.changes.note()
        assert await events.next() == ("gone", {"name": "robot:latest"})


async def test_that_time_goes_by_is_no_event(alone: Alone, scheduler: LedScheduler) -> None:
    scheduler.tell(weights="w", names=("demo:latest",), state=State.READY)
    async with watch(alone) as events:
        await events.next()
        for seconds in range(5):
            scheduler.tell(seconds=float(seconds))
            await alone.api.get("/health")  # a turn of the server's
        scheduler.tell(state=State.STOPPING)
        name, engine = await events.next()
        assert (name, engine["state"], engine["seconds"]) == ("engine", "stopping", 4.0)


async def test_steps_that_come_too_fast_are_left_out(
    alone: Alone, scheduler: LedScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "_PAUSE_S", 0.1)
    scheduler.tell(weights="w", names=("demo:latest",), state=State.STARTING, phase=Phase.CAPTURING)
    async with watch(alone) as events:
        await events.next()
        for done in range(1, 101):
            scheduler.tell(fraction=done / 100)
            await asyncio.sleep(0)
        seen = [(await events.next())[1]["fraction"]]
        while seen[-1] < 1.0:
            seen.append((await events.next())[1]["fraction"])
        assert len(seen) <= 3


async def test_heartbeats(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "_HEARTBEAT_S", 0.02)
    async with watch(alone) as events:
        await events.next()
        assert [await events.block() for _ in range(2)] == 2 * [": nothing new"]


async def test_how_fast_a_busy_engine_is_while_somebody_watches(
    alone: Alone, scheduler: LedScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines_module, "_REFRESH_S", 0.02)
    clock = itertools.count()
    alone.gateway.stats = Stats(lambda: float(next(clock)))
    alone.engine.script(whole(metrics(1, 0, 0)), whole(metrics(0, 0, 100)))
    alone.engine.answer = whole(metrics(0, 0, 100))
    scheduler.tell(weights="w", names=("demo:latest",), state=State.READY, client=scheduler.client)
    async with watch(alone) as events:
        _, told = await events.next()
        assert told["engines"][0]["tokens_per_second"] is None
        assert (await events.next())[1]["tokens_per_second"] > 0
        assert (await events.next())[1]["tokens_per_second"] == 0.0


async def test_events_end_when_the_server_stops(alone: Alone, scheduler: LedScheduler) -> None:
    async with watch(alone) as events:
        await events.next()
        alone.gateway.drain()
        with pytest.raises(StopAsyncIteration):
            await events.block()


async def test_a_watcher_that_leaves_leaves_nothing(alone: Alone, scheduler: LedScheduler) -> None:
    async with watch(alone) as events:
        await events.next()
        async with asyncio.timeout(5):
            while not scheduler.changes._waiting:
                await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while scheduler.changes._waiting:
            await asyncio.sleep(0)
