"""The connection to an engine: Server-Sent Events in any pieces, and every failure as an EngineError."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from aiohttp import web

from tests.fake_engine import FakeEngine, Silence, Stream, asked_twice, events, hang_up, refusal, whole
from vllama.engine import events as events_module
from vllama.engine.client import EngineClient, Health, death, server_sent_events
from vllama.errors import EngineError, EngineGoneError
from vllama.wire.openai import ModelList


async def read(*pieces: bytes) -> list[list[bytes]]:
    """What the parser makes of a reply that arrives in these pieces."""

    async def iter_any() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    response: Any = SimpleNamespace(content=SimpleNamespace(iter_any=iter_any))
    return [batch async for batch in server_sent_events(response)]


async def flat(*pieces: bytes) -> list[bytes]:
    return [event for batch in await read(*pieces) for event in batch]


STREAM = ': ping\n\ndata: {"a": "é👋"}\n\nevent: error\ndata: {\ndata: }\n\ndata: [DONE]\n\n'.encode()
EXPECTED = ['{"a": "é👋"}'.encode(), b"{\n}", b"[DONE]"]


@pytest.mark.parametrize("stream", [STREAM, STREAM.replace(b"\n", b"\r\n")], ids=["lf", "crlf"])
async def test_pieces_do_not_matter(stream: bytes) -> None:
    assert await flat(stream) == EXPECTED
    assert await flat(*(bytes([byte]) for byte in stream)) == EXPECTED
    for split in range(len(stream) + 1):
        assert await flat(stream[:split], stream[split:]) == EXPECTED, split


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []),
        (b"\n\n\n\n", []),
        (b": only a comment\n\n", []),
        (b"data:no blank\n\n", [b"no blank"]),
        (b"data:  two blanks\n\n", [b" two blanks"]),
        (b"id: 7\nretry: 10\ndata: x\n\n", [b"x"]),
        (b": comment\ndata: x\n\n", [b"x"]),
        (b"data: a\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: last, without a blank line", [b"last, without a blank line"]),
        (b"garbage\n\ndata: x\n\n", [b"x"]),
        (b"data: \xff\xfe\n\n", [b"\xff\xfe"]),
    ],
)
async def test_forms_of_events(stream: bytes, expected: list[bytes]) -> None:
    assert await flat(stream) == expected


async def test_events_of_one_read_come_together() -> None:
    one, two, three = events("1", "2", "3")
    assert await read(one + two, three) == [[b"1", b"2"], [b"3"]]


async def test_an_event_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_EVENT_BYTES", 100)
    assert await flat(b"data: " + 90 * b"x", b"\n\n") == [90 * b"x"]
    with pytest.raises(EngineError, match="too large"):
        await flat(b"data: ", 60 * b"x", 60 * b"x", b"\n\n")


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[EngineClient]:
    client = EngineClient(engine.url)
    yield client
    await client.close()


async def ask(client: EngineClient, path: str = "/v1/completions", body: bytes | None = b"{}") -> bytes:
    async with client.request("POST" if body else "GET", path, body) as response:
        return await response.read()


async def test_a_cut_stream_is_an_error_after_what_came(engine: FakeEngine, client: EngineClient) -> None:
    reply = Stream(*events("1", "2"), end="cut")
    engine.script(reply)
    seen = []

    async def follow() -> None:
        async with client.request("POST", "/v1/completions", b"{}") as response:
            async for batch in server_sent_events(response):
                seen.extend(batch)
                if b"2" in batch:
                    reply.may_cut.set()

    with pytest.raises(EngineError, match="broke off"):
        await follow()
    assert seen == [b"1", b"2"]


async def test_what_had_arrived_before_the_cut_is_given_too(engine: FakeEngine, client: EngineClient) -> None:
    first, rest = asyncio.Event(), asyncio.Event()

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(events("1")[0])
        await first.wait()
        for event in events("2", "3"):
            await response.write(event)
        await rest.wait()
        assert request.transport is not None
        request.transport.close()
        return response

    engine.script(cut)
    seen: list[bytes] = []

    async def follow() -> None:
        async with client.request("POST", "/v1/completions", b"{}") as response:
            async for batch in server_sent_events(response):
                seen.extend(batch)
                first.set()
                while response.content.total_bytes < len(b"".join(events("1", "2", "3"))):
                    await asyncio.sleep(0)
                rest.set()
                while response.content.exception() is None:
                    await asyncio.sleep(0)

    with pytest.raises(EngineGoneError, match="broke off"):
        await asyncio.wait_for(follow(), 5)
    assert seen == [b"1", b"2", b"3"]


async def test_what_was_not_read_when_the_engine_is_given_up_is_not_lost(
    engine: FakeEngine, client: EngineClient
) -> None:
    engine.script(Stream(*events("1", "2"), end="hang"))
    seen: list[bytes] = []

    async def follow() -> None:
        async with client.request("POST", "/v1/completions", b"{}") as response:
            while response.content.total_bytes < len(b"".join(events("1", "2"))):
                await asyncio.sleep(0)
            await client.close()
            async for batch in server_sent_events(response):
                seen.extend(batch)

    with pytest.raises(EngineGoneError):
        await asyncio.wait_for(follow(), 5)
    assert seen == [b"1", b"2"]


async def test_requests_without_a_byte_of_their_reply_wait(engine: FakeEngine, client: EngineClient) -> None:
    silence, begun, streaming = Silence(), Stream(end="hang"), Stream(*events("1"), end="hang")
    engine.script(silence, begun, streaming)
    asking = asyncio.create_task(ask(client))
    await asyncio.wait_for(silence.reached.wait(), 5)
    assert (client.waiting, client.answered) == (1, 0)
    async with client.request("POST", "/v1/completions", b"{}"):
        assert (client.waiting, client.answered) == (2, 1)
        async with client.request("POST", "/v1/completions", b"{}") as response:
            assert await anext(aiter(response.content.iter_any())) == b"data: 1\n\n"
            assert (client.waiting, client.answered) == (2, 2)
    assert client.waiting == 1
    asking.cancel()
    await asyncio.wait({asking})
    assert client.waiting == 0


@pytest.mark.parametrize(
    ("behaviour", "health"),
    [
        (whole(b""), Health.GOOD),
        (whole(b"", 503), Health.DEAD),
        (whole(b"", 500), Health.SILENT),
        (hang_up, Health.SILENT),
        (Silence(), Health.SILENT),
    ],
)
async def test_health(engine: FakeEngine, client: EngineClient, behaviour: Any, health: Health) -> None:
    engine.script(*asked_twice(behaviour))
    assert await client.health(0.05 if isinstance(behaviour, Silence) else 5.0) is health
    await client.close()
    assert await client.health(5.0) is Health.SILENT


async def test_too_many_open_files_say_nothing_of_the_engine(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(client, "_open", refuse)
    assert await client.health(5.0) is Health.UNKNOWN


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:/nowhere/engine.sock"])
async def test_nobody_listens_any_more(url: str) -> None:
    client = EngineClient(url)
    assert await client.health(5.0) is Health.REFUSED
    await client.close()


@pytest.mark.parametrize(
    ("reply", "is_dead"),
    [
        (b'{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause."}}', True),
        (b'{"error":{"message":"EngineDeadError"}}', True),
        (b'{"error":{"message":"EngineCore died."}}', False),
        (b"", False),
    ],
)
def test_an_engine_that_says_that_it_is_dead(reply: bytes, is_dead: bool) -> None:
    assert (death(reply) is not None) is is_dead


async def test_an_engine_that_hangs_up(engine: FakeEngine, client: EngineClient) -> None:
    engine.script(hang_up)
    with pytest.raises(EngineError, match="cannot be reached"):
        await ask(client)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "unix:/nowhere/engine.sock", "no address"])
async def test_nothing_listens(url: str) -> None:
    client = EngineClient(url)
    try:
        assert not await client.healthy()
        with pytest.raises(EngineError, match="cannot be reached"):
            await ask(client)
        with pytest.raises(EngineError, match="cannot be reached"):
            await client.get_json("/v1/models", seconds=5.0)
    finally:
        await client.close()


async def test_leaving_early_aborts_the_request(engine: FakeEngine, client: EngineClient) -> None:
    reply = Stream(*events("1"), end="hang")
    engine.script(reply)
    async with client.request("POST", "/v1/completions", b"{}") as response:
        assert [await anext(aiter(server_sent_events(response)))] == [[b"1"]]
    await asyncio.wait_for(reply.aborted.wait(), 5)


async def test_a_silent_engine_is_given_up_in_time(engine: FakeEngine, client: EngineClient) -> None:
    silence = Silence()
    engine.script(silence, Silence())
    with pytest.raises(EngineError, match="did not answer in time"):
        await client.get_json("/v1/models", seconds=0.05)
    assert not await client.healthy(seconds=0.05)
    await asyncio.wait_for(silence.aborted.wait(), 5)


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (refusal(401, "Unauthorized", "AuthenticationError"), "/v1/models answered 401: .*Unauthorized"),
        (whole(b"not JSON"), "/v1/models answered something else than expected"),
        (whole({"data": "none"}), "/v1/models answered something else than expected"),
        (whole(b"\xff\xfe", 500), "/v1/models answered 500"),
    ],
)
async def test_get_json_refuses_what_it_did_not_ask_for(
    engine: FakeEngine, client: EngineClient, behaviour: Any, text: str
) -> None:
    engine.script(behaviour)
    with pytest.raises(EngineError, match=text):
        await client.get_json("/v1/models", seconds=5.0, type_=ModelList)


async def test_healthy_is_a_200(engine: FakeEngine, client: EngineClient) -> None:
    engine.script(whole({}), whole({}, 503))
    assert await client.healthy()
    assert not await client.healthy()


async def test_over_a_unix_socket(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # A relative path: the temporary folder's own may be too long for a socket.
    monkeypatch.chdir(tmp_path_factory.mktemp("socket"))
    engine = FakeEngine()
    await engine.start(Path("engine.sock"))
    client = EngineClient(engine.url)
    try:
        engine.script(whole({"data": []}))
        assert await ask(client) == b'{"data": []}'
    finally:
        await client.close()
        await engine.stop()


async def test_what_is_sent(engine: FakeEngine) -> None:
    client = EngineClient(engine.url + "/", api_key="secret")
    engine.script(whole({}), whole({"data": []}))
    try:
        await ask(client, body=b'{"prompt": "x"}')
        await client.get_json("/v1/models", seconds=5.0)
    finally:
        await client.close()
    posted, got = engine.asked
    assert (posted.method, posted.path, posted.body) == ("POST", "/v1/completions", {"prompt": "x"})
    assert posted.headers["Content-Type"] == "application/json"
    assert (got.method, got.path) == ("GET", "/v1/models")
    assert posted.headers["Authorization"] == got.headers["Authorization"] == "Bearer secret"


async def test_close_is_safe_before_use_and_twice(engine: FakeEngine) -> None:
    await EngineClient(engine.url).close()
    client = EngineClient(engine.url)
    engine.script(whole({}))
    await ask(client)
    await client.close()
    await client.close()


@pytest.mark.parametrize("used", [False, True])
async def test_a_closed_client_says_so(engine: FakeEngine, used: bool) -> None:
    client = EngineClient(engine.url)
    if used:
        engine.script(whole({}))
        await ask(client)
    await client.close()
    with pytest.raises(EngineError, match="the engine was stopped"):
        await ask(client)
    with pytest.raises(EngineError, match="the engine was stopped"):
        await client.get_json("/v1/models", seconds=5.0)
    assert not await client.healthy()


@pytest.mark.parametrize("begun", [False, True])
async def test_closing_ends_what_is_being_asked(engine: FakeEngine, client: EngineClient, begun: bool) -> None:
    """Before the engine's reply has begun, and in its middle."""
    silence, reply = Silence(), Stream(*events("1"), end="hang")
    engine.script(reply if begun else silence)
    asking = asyncio.create_task(ask(client))
    await asyncio.wait_for((reply.sent if begun else silence.reached).wait(), 5)
    await client.close()
    with pytest.raises(EngineError):
        await asyncio.wait_for(asking, 5)
