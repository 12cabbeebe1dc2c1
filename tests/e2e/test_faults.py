"""Faults of a real engine while clients stream: noticed, told, and healed, and nothing of the lost engine is left."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.served import ENGINE_HOME, Served, alive, serve, wait_until
from vllama.demo.dialogues import DIALOGUES, by_name
from vllama.engine.kin import Process, look_at, title
from vllama.routes._failures import DIED

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

ENDLESS = next(dialogue for dialogue in DIALOGUES if dialogue.endless)
SING = {"model": "demo", "messages": list(ENDLESS.messages)}
HELLO = by_name("hello")
GREET = {"model": "demo", "messages": list(HELLO.messages), "stream": False, "options": {"temperature": 0}}
NOTICED_S = 8.0
"""Two seconds, and the rest for a machine on which 15 others want a turn. Unwatched it would be minutes."""
CORE, SERVER = "EngineCore", "API server"


def processes_of(served: Served) -> dict[str, Process]:
    """The processes of the only engine, by what they are."""
    found = look_at(served.engine_processes())
    (guard,) = [process for process in found if process.pid == process.session]
    named = {title(process).partition("_")[0]: process for process in found}
    named[SERVER] = next(process for process in found if process.parent == guard.pid)
    return named


class Singer:
    """A client of an endless stream. lines: what it got. ended_at: when that was over."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.began = asyncio.Event()
        self.ended_at = 0.0

    async def sing(self, api: httpx.AsyncClient) -> None:
        async with api.stream("POST", "/api/chat", json=SING) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                self.lines.append(json.loads(line))
                self.began.set()
        self.ended_at = time.monotonic()


@pytest.fixture(scope="module")
async def gateway() -> AsyncIterator[Served]:
    with serve("--model", "demo") as served:
        yield served


@pytest.mark.parametrize(
    ("which", "number", "cause"),
    [
        (CORE, signal.SIGKILL, "its EngineCore died"),
        (SERVER, signal.SIGKILL, "killed (SIGKILL)"),
        (CORE, signal.SIGSTOP, "was stopped (SIGSTOP)"),
    ],
)
async def test_an_engine_that_is_lost(gateway: Served, which: str, number: signal.Signals, cause: str) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=200) as api:
        assert (await api.post("/api/chat", json=GREET)).json()["message"]["content"] == HELLO.answer
        processes = processes_of(gateway)
        singers = [Singer() for _ in range(4)]
        songs = [asyncio.create_task(singer.sing(api)) for singer in singers]
        await asyncio.gather(*(singer.began.wait() for singer in singers))
        os.kill(processes[which].pid, number)
        lost_at = time.monotonic()
        greeted = await api.post("/api/chat", json=GREET)
        assert (greeted.status_code, greeted.json()["message"]["content"]) == (200, HELLO.answer), greeted.text
        await asyncio.gather(*songs)
    for singer in singers:
        assert singer.ended_at - lost_at < NOTICED_S
        assert singer.lines[-1]["error"].startswith(DIED)
        assert all(line["message"]["content"] or line["message"].get("thinking") for line in singer.lines[:-1])
    assert cause in gateway.log
    left = [process.pid for process in processes.values()]
    wait_until(lambda: not alive(left), 5, f"nothing is left: {left}")
    assert len(list(Path(ENGINE_HOME, "run").glob(f"{gateway.process.pid}-*.json"))) == 1
