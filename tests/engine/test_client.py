"""What an engine is asked, and every failure as an EngineError."""

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiohttp import web

from tests.engine.conftest import until
from tests.fake_engine import FakeEngine, Silence, Stream, events, hang_up, refusal, whole
from vllama.engine.address import Address
from vllama.engine.client import EngineClient, Health, Response, death
from vllama.engine.events import Events, data_of
from vllama.errors import EngineBusyError, EngineError, EngineGoneError
from vllama.wire.openai import ModelList


async def follow(response: Response, seen: list[bytes]) -> None:
    """Append the data of a reply's events as they come."""
    reader = Events()
    while data := await response.next():
        seen += [data_of(block) for block in reader.feed(data)]


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
    seen: list[bytes] = []

    async def ask() -> None:
        async with client.request("POST", "/v1/completions", b"{}") as response:
            following = asyncio.create_task(follow(response, seen))
            await until(lambda: b"2" in seen)
            reply.may_cut.set()
            await following

    with pytest.raises(EngineGoneError, match="broke off"):
        await ask()
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

    async def ask() -> None:
        async with client.request("POST", "/v1/completions", b"{}") as response:
            assert await response.next() == events("1")[0]
            first.set()
            await until(lambda: response.received == len(b"".join(events("1", "2", "3"))))
            rest.set()
            await until(lambda: not response.is_open)
            await follow(response, seen)

    with pytest.raises(EngineGoneError, match="broke off"):
        await ask()
    assert seen == [b"2", b"3"]


async def test_what_was_not_read_when_the_engine_is_given_up_is_not_lost(
    engine: FakeEngine, client: EngineClient
) -> None:
    engine.script(Stream(*events("1", "2"), end="hang"))
    seen: list[bytes] = []

    async def ask() -> None:
        async with client.request("POST", "/v1/completions", b"{}") as response:
            await until(lambda: response.received == len(b"".join(events("1", "2"))))
            await client.close()
            await follow(response, seen)

    with pytest.raises(EngineGoneError, match="the engine was stopped"):
        await ask()
    assert seen == [b"1", b"2"]


async def test_requests_without_a_byte_of_their_reply_wait(engine: FakeEngine, client: EngineClient) -> None:
    silence, begun, streaming = Silence(), Stream(end="hang"), Stream(*events("1"), end="hang")
    engine.script(silence, begun, streaming)
    asking = asyncio.create_task(ask(client))
    await asyncio.wait_for(silence.reached.wait(), 20)
    assert (client.waiting, client.answered) == (1, 0)
    async with client.request("POST", "/v1/completions", b"{}"):
        assert (client.waiting, client.answered) == (2, 1)
        async with client.request("POST", "/v1/completions", b"{}") as response:
            assert await response.next() == b"data: 1\n\n"
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
    engine.script(behaviour)
    assert await client.health(0.05 if isinstance(behaviour, Silence) else 5.0) is health
    await client.close()
    assert await client.health(5.0) is Health.SILENT


async def test_too_many_open_files_say_nothing_of_the_engine(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Address, "connect", refuse)
    assert await client.health(5.0) is Health.UNKNOWN
    with pytest.raises(EngineBusyError, match="Too many open files"):
        await ask(client)


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
        assert await response.next() == events("1")[0]
    await asyncio.wait_for(reply.aborted.wait(), 20)


async def test_a_silent_engine_is_given_up_in_time(engine: FakeEngine, client: EngineClient) -> None:
    silence = Silence()
    engine.script(silence, Silence())
    with pytest.raises(EngineError, match="did not answer in time"):
        await client.get_json("/v1/models", seconds=0.05)
    assert not await client.healthy(seconds=0.05)
    await asyncio.wait_for(silence.aborted.wait(), 20)


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
    assert posted.headers["Accept-Encoding"] == "identity", "compressing would hold tokens back"
    assert "Content-Type" not in got.headers
    assert posted.headers["Authorization"] == got.headers["Authorization"] == "Bearer secret"


async def test_a_key_that_no_header_can_carry(engine: FakeEngine) -> None:
    with pytest.raises(EngineError, match="its API key has a character that no header may have"):
        await ask(EngineClient(engine.url, api_key="secret\r\nX: y"))


async def test_connections_are_opened_ahead(engine: FakeEngine, client: EngineClient) -> None:
    await client.warm(2)
    engine.script(whole({}))
    await ask(client)
    await client.close()
    await client.warm(2)  # which tells nothing: who asks is told


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
    await asyncio.wait_for((reply.sent if begun else silence.reached).wait(), 20)
    await client.close()
    with pytest.raises(EngineError):
        await asyncio.wait_for(asking, 20)
