"""What the bodies of all requests hold together: over real connections."""

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.conftest import Alone
from tests.fake_engine import Silence, whole
from vllama import bodies
from vllama.admission import Admission
from vllama.bodies import SMALL, BodyMemory
from vllama.overload import BUSY

MOST = 2**20
LARGE = 2**19


def body(size: int) -> bytes:
    return json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}).encode().ljust(size)


@pytest.fixture
def memory(alone: Alone) -> BodyMemory:
    """A MiB."""
    memory = BodyMemory(MOST)
    alone.gateway.admission = Admission(bodies=memory)
    return memory


@contextlib.asynccontextmanager
async def held(alone: Alone, content: bytes | AsyncIterator[bytes], **headers: str) -> AsyncIterator[None]:
    """A request whose body was read, and which is not answered."""
    silence = Silence()
    alone.engine.script(silence)
    asking = asyncio.create_task(alone.api.post("/v1/chat/completions", content=content, headers=headers))
    async with asyncio.timeout(20):
        await silence.reached.wait()
        before = alone.gateway.admission.in_flight
        yield
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        while alone.gateway.admission.in_flight == before:
            await asyncio.sleep(0)


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 2**15):
        yield content[start : start + 2**15]


async def ask(alone: Alone, content: bytes | AsyncIterator[bytes], **headers: str) -> httpx.Response:
    return await alone.api.post("/v1/chat/completions", content=content, headers=headers)


async def test_large_bodies_are_refused_where_there_is_no_room_and_small_ones_are_not(
    alone: Alone, memory: BodyMemory
) -> None:
    async with held(alone, body(LARGE)), held(alone, body(LARGE)):
        assert memory.held == MOST
        for content in (body(SMALL + 1), chunks(body(SMALL + 1))):
            reply = await ask(alone, content)
            assert (reply.status_code, reply.json()["error"]["message"]) == (503, BUSY)
            assert reply.headers["connection"] == "close"
            assert 1 <= int(reply.headers["retry-after"]) <= 5
        assert memory.held == MOST
        for content in (body(SMALL), chunks(body(SMALL))):
            alone.engine.script(whole({"choices": []}))
            assert (await ask(alone, content)).status_code == 200
    assert memory.held == 0
    alone.engine.script(whole({"choices": []}))
    assert (await ask(alone, body(LARGE))).status_code == 200
    assert memory.held == 0


async def test_bodies_of_unknown_length_count_as_they_come(alone: Alone, memory: BodyMemory) -> None:
    async with held(alone, chunks(body(LARGE))):
        assert memory.held == LARGE
        assert (await ask(alone, chunks(body(LARGE + 1)))).status_code == 503
        assert memory.held == LARGE
    assert memory.held == 0


async def test_packed_bodies_count_packed_and_unpacked(alone: Alone, memory: BodyMemory) -> None:
    packed = zlib.compress(body(LARGE))
    deflate = {"Content-Encoding": "deflate"}
    async with held(alone, packed, **deflate):
        assert memory.held == LARGE + len(packed)
        reply = await ask(alone, zlib.compress(body(LARGE)), **deflate)
        assert (reply.status_code, reply.json()["error"]["message"]) == (503, BUSY)
        assert memory.held == LARGE + len(packed)
    assert memory.held == 0


async def test_what_is_shown_and_not_worked_on_counts_too(alone: Alone, memory: BodyMemory) -> None:
    async with held(alone, body(MOST)):
        reply = await alone.api.post("/api/show", content=body(SMALL + 1))
        assert (reply.status_code, reply.json()) == (503, {"error": BUSY})


def test_a_thread_that_unpacks_on_for_a_request_that_is_gone_takes_nothing() -> None:
    memory, scope = BodyMemory(MOST), {}
    memory.take(scope, LARGE)
    memory.give_back(scope)
    memory.take(scope, LARGE)
    assert memory.held == 0


async def test_a_body_that_stops_coming(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is wanted by others."""
    monkeypatch.setattr(bodies, "STALL_S", 0.02)
    reader, writer = await asyncio.open_connection("127.0.0.1", alone.api.base_url.port)
    writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        error = json.loads(await reader.readuntil(b"}"))
    assert head.startswith(b"HTTP/1.1 408 ")
    assert error == {"error": "no byte of the request's body came for 0.02 s: send it again"}
    writer.close()
