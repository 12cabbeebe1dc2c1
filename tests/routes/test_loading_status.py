"""`loading_status` in /api/generate and /api/chat: what the client is told while its model loads."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.conftest import Alone
from tests.fake_engine import Stream, chat_events, refusal, whole
from tests.routes.led import LedScheduler
from vllama.engine.progress import Phase
from vllama.errors import EngineError
from vllama.routes import _loading

GENERATE = {"model": "demo", "prompt": "Hello!"}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}
both = pytest.mark.parametrize(("path", "body"), [("/api/generate", GENERATE), ("/api/chat", CHAT)])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loading, "_AT_ONCE_S", 0.05)
    monkeypatch.setattr(_loading, "_PAUSE_S", 0.0)


@contextlib.asynccontextmanager
async def asked(alone: Alone, path: str, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[Any]]:
    async with alone.api.stream("POST", path, json=body | {"loading_status": True}) as response:
        assert response.status_code == 200
        yield _objects(response)


async def _objects(response: httpx.Response) -> AsyncIterator[Any]:
    async with asyncio.timeout(10):
        async for line in response.aiter_lines():
            yield json.loads(line)


def thinking(path: str, chunk: dict[str, Any]) -> str:
    """Of a chunk that has nothing else to say."""
    assert (chunk["model"], chunk["done"]) == ("demo", False)
    if path == "/api/generate":
        assert chunk["response"] == ""
        return str(chunk["thinking"])
    assert chunk["message"].pop("content") == ""
    assert chunk["message"].pop("role") == "assistant"
    return str(chunk["message"]["thinking"])


@both
async def test_phases_are_thoughts(alone: Alone, scheduler: LedScheduler, path: str, body: dict[str, Any]) -> None:
    alone.engine.script(Stream(*chat_events("Hi", "!")))
    async with asked(alone, path, body) as chunks:
        assert thinking(path, await anext(chunks)) == "waiting for room\n"
        scheduler.tell(phase=Phase.IMPORTING, seconds=3.2)
        assert thinking(path, await anext(chunks)) == "importing 3 s\n"
        scheduler.tell(phase=Phase.READING, detail="1 of 2", seconds=0.4)
        assert thinking(path, await anext(chunks)) == "reading weights (1 of 2)\n"
        scheduler.ready.set()
        rest = [chunk async for chunk in chunks]
    texts = [chunk["response"] if path == "/api/generate" else chunk["message"]["content"] for chunk in rest]
    assert texts == ["Hi", "!", ""]
    assert rest[-1]["done"]
    assert "thinking" not in json.dumps(rest)


async def test_seconds_are_told_now_and_then(
    alone: Alone, scheduler: LedScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_loading, "_WORD_S", 0.05)
    monkeypatch.setattr(_loading, "_TICK_S", 0.01)
    alone.engine.script(Stream(*chat_events("Hi")))
    async with asked(alone, "/api/chat", CHAT) as chunks:
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            await anext(chunks)
        assert asyncio.get_running_loop().time() - began >= 0.08
        scheduler.ready.set()
        assert [chunk async for chunk in chunks][-1]["done"]


@both
async def test_a_load_that_fails_after_a_thought(
    alone: Alone, scheduler: LedScheduler, path: str, body: dict[str, Any]
) -> None:
    async with asked(alone, path, body) as chunks:
        await anext(chunks)
        scheduler.failure = EngineError("no room", "buy some")
        scheduler.ready.set()
        assert [chunk async for chunk in chunks] == [{"error": "no room: buy some"}]


async def test_a_refusal_after_a_thought(alone: Alone, scheduler: LedScheduler) -> None:
    alone.engine.script(refusal(400, "nothing but nonsense"))
    async with asked(alone, "/api/chat", CHAT) as chunks:
        await anext(chunks)
        scheduler.ready.set()
        assert [chunk async for chunk in chunks] == [{"error": "nothing but nonsense"}]


async def test_a_load_that_fails_at_once_has_a_status(alone: Alone, scheduler: LedScheduler) -> None:
    scheduler.failure = EngineError("no room", "buy some")
    scheduler.ready.set()
    response = await alone.api.post("/api/chat", json=CHAT | {"loading_status": True})
    assert (response.status_code, response.json()) == (500, {"error": "no room: buy some"})


@both
async def test_a_model_that_is_loaded_has_nothing_to_tell(
    alone: Alone, scheduler: LedScheduler, path: str, body: dict[str, Any]
) -> None:
    scheduler.ready.set()
    alone.engine.script(Stream(*chat_events("Hi")))
    async with asked(alone, path, body) as chunks:
        assert "thinking" not in json.dumps([chunk async for chunk in chunks])


@pytest.mark.parametrize("fields", [{}, {"loading_status": False}, {"loading_status": None}])
async def test_without_the_field_nothing_comes_before_the_reply(
    alone: Alone, scheduler: LedScheduler, fields: dict[str, Any]
) -> None:
    alone.engine.script(Stream(*chat_events("Hi")))
    asyncio.get_running_loop().call_later(0.2, scheduler.ready.set)
    response = await alone.api.post("/api/chat", json=CHAT | fields)
    assert "thinking" not in response.text


async def test_without_a_stream_nothing_is_told(alone: Alone, scheduler: LedScheduler) -> None:
    completion = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
    alone.engine.script(whole(completion))
    asyncio.get_running_loop().call_later(0.2, scheduler.ready.set)
    response = await alone.api.post("/api/chat", json=CHAT | {"loading_status": True, "stream": False})
    assert response.json()["message"] == {"role": "assistant", "content": "Hi"}


async def test_the_field_is_checked(alone: Alone) -> None:
    response = await alone.api.post("/api/chat", json=CHAT | {"loading_status": "yes"})
    assert response.status_code == 400
    assert response.json() == {"error": "invalid request: loading_status: expected boolean, got string"}


async def test_a_model_that_is_to_be_unloaded_is_loaded_once(alone: Alone) -> None:
    """`alone` unloads it as soon as nobody uses it: between the load and the reply somebody does."""
    alone.next_place["held"] = True
    alone.engine.script(Stream(*chat_events("Hi")))
    async with asked(alone, "/api/chat", CHAT) as chunks:
        await anext(chunks)
        alone.place.may_start.set()
        assert [chunk async for chunk in chunks][-1]["done"]
    assert len(alone.places) == 1


async def test_whoever_waits_for_the_memory_does_not_wait_for_ever(alone: Alone) -> None:
    """Another model is waited for when the load ends: this one's memory is promised to it."""
    alone.next_place["held"] = True
    alone.scheduler._mover._max_loaded = 1
    alone.engine.answer = Stream(*chat_events("Hi"))
    async with asyncio.TaskGroup() as tasks:
        async with asked(alone, "/api/chat", CHAT) as chunks:
            await anext(chunks)
            other = tasks.create_task(alone.api.post("/api/generate", json={"model": "plain"}))
            async with asyncio.timeout(10):
                while not any(model.name.model == "plain" for model in alone.scheduler.waited_for()):
                    await asyncio.sleep(0)
            alone.next_place["held"] = False
            alone.place.may_start.set()
            assert [chunk async for chunk in chunks][-1]["done"]
        assert (await other).status_code == 200
