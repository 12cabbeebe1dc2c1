"""Bodies that are written without a coroutine; replies to HTTP/1.0, which ends them with the connection (nginx asks in
it unless it is told otherwise); and heads of requests that are too large.
"""

import asyncio
import contextlib
import gc
import json
from collections.abc import Callable

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from tests.conftest import Alone, Serve
from tests.fake_engine import Stream, chat_events
from tests.loops import on_uvloop
from vllama import protocol
from vllama.framing import CLIENT, Attended, ClientLeft, client_of, until_client_leaves

SAY = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hi"}]})


async def ask(alone: Alone, first_line: str, body: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", alone.api.base_url.port)
    writer.write(f"{first_line}\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n{body}".encode())
    return reader, writer


async def whole_reply(alone: Alone, first_line: str, body: str = "") -> tuple[str, bytes]:
    reader, writer = await ask(alone, first_line, body)
    async with asyncio.timeout(20):
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.decode().lower(), content


@pytest.mark.parametrize(
    ("path", "media_type"), [("/api/chat", "application/x-ndjson"), ("/v1/chat/completions", "text/event-stream")]
)
async def test_a_stream_has_no_chunks_and_ends_with_the_connection(alone: Alone, path: str, media_type: str) -> None:
    alone.engine.script(Stream(*chat_events("Hel", "lo")))
    head, content = await whole_reply(alone, f"POST {path} HTTP/1.0", SAY)
    assert f"content-type: {media_type}" in head
    assert "connection: close" in head
    assert "transfer-encoding" not in head
    assert "content-length" not in head
    lines = [line.removeprefix("data: ") for line in content.decode().splitlines() if line]
    assert [json.loads(line) for line in lines if line != "[DONE]"]


async def test_what_is_streamed_arrives_at_once(alone: Alone) -> None:
    alone.engine.script(Stream(*chat_events("Hel", finish=None)[:-1], end="hang"))
    reader, writer = await ask(alone, "POST /api/chat HTTP/1.0", SAY)
    async with asyncio.timeout(20):
        await reader.readuntil(b"\r\n\r\n")
        assert json.loads(await reader.readline())["message"]["content"] == "Hel"
    writer.close()


@pytest.mark.parametrize(
    ("first_line", "status", "content"),
    [
        ("GET / HTTP/1.0", 200, b"Ollama is running"),
        ("HEAD / HTTP/1.0", 200, b""),
        ("GET /nothing HTTP/1.0", 404, b"404 page not found"),
        ("OPTIONS / HTTP/1.0", 204, b""),
    ],
)
async def test_replies_of_known_length_keep_it(alone: Alone, first_line: str, status: int, content: bytes) -> None:
    head, body = await whole_reply(alone, first_line)
    assert head.startswith(f"http/1.1 {status} ")
    assert body == content
    assert head.count("content-length") == (0 if status == 204 else 1)
    assert "transfer-encoding" not in head


async def test_streams_of_http_1_1_have_chunks(alone: Alone) -> None:
    alone.engine.script(Stream(*chat_events("Hello")))
    head, content = await whole_reply(alone, "POST /api/chat HTTP/1.1\r\nConnection: close", SAY)
    assert "transfer-encoding: chunked" in head
    assert content.endswith(b"0\r\n\r\n")


class Writer:
    """An app that writes to its server before, in, and after a body. taken: what of it was taken."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = client_of(scope)
        assert client is not None
        headers = [(b"content-length", b"5")] if scope["query_string"] == b"of-known-length" else []
        self._write(client.write, b"early")
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._write(client.write, b"before its head")
        await send({"type": "http.response.body", "body": b"He", "more_body": True})
        self._write(client.write, b"")
        self._write(client.write, b"l")
        rest = b"lo" if b"l" in self.taken or scope["method"] == "HEAD" else b"llo"
        await send({"type": "http.response.body", "body": rest, "more_body": False})
        self._write(client.write, b"late")

    def _write(self, write: Callable[[bytes], bool], data: bytes) -> None:
        if write(data):
            self.taken.append(data)


@pytest.mark.parametrize(
    ("first_line", "taken", "body"),
    [
        ("GET / HTTP/1.1", [b"l"], b"2\r\nHe\r\n1\r\nl\r\n2\r\nlo\r\n0\r\n\r\n"),
        ("GET /?of-known-length HTTP/1.1", [], b"Hello"),
        ("HEAD / HTTP/1.1", [], b""),
    ],
)
@on_uvloop
async def test_only_chunks_are_written_at_once(serve: Serve, first_line: str, taken: list[bytes], body: bytes) -> None:
    app = Writer()
    async with serve(Starlette(routes=[Route("/", app)])) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(f"{first_line}\r\nHost: g\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(20):
            head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (app.taken, content) == (taken, body)


@pytest.mark.parametrize(("part", "sent"), [(b"Hello", b"5\r\nHello\r\n"), (b"", b"")])
@on_uvloop
async def test_a_head_leaves_with_the_first_part(serve: Serve, part: bytes, sent: bytes) -> None:
    """Even where that is nothing: whoever sends it wants the head to leave."""
    ended = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await ended.wait()

    async with serve(Starlette(routes=[Mount("/", app)])) as url, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
        writer.write(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n" + sent)).startswith(b"HTTP/1.1 200 OK\r\n")
        ended.set()
        writer.close()


async def test_each_reply_is_one_write(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others would wake the client in vain."""
    written: list[int] = []
    flush = protocol._Cork.flush
    monkeypatch.setattr(protocol._Cork, "flush", lambda cork: (written.append(len(cork.held)), flush(cork)))
    assert (await alone.api.get("/api/version")).status_code == 200
    assert written == [2], "the head and the body"


@on_uvloop
async def test_a_client_that_left_before_anybody_attended(serve: Serve) -> None:
    began, left = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        began.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        with contextlib.suppress(ClientLeft), Attended(scope, receive):
            await asyncio.Event().wait()
        left.set()

    async with serve(Starlette(routes=[Mount("/", app)])) as url, asyncio.timeout(20):
        await leave(url, began)
        await left.wait()


async def leave(url: str, asked: asyncio.Event, requests: int = 1) -> None:
    """Ask, and close the connection when that has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    writer.write(requests * b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
    await asked.wait()
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await reader.read()


@pytest.mark.parametrize("started", [False, True])
@on_uvloop
async def test_a_reply_to_a_client_that_left(serve: Serve, caplog: pytest.LogCaptureFixture, started: bool) -> None:
    """Before its head, or behind it: it goes nowhere, and nobody is told of an error."""
    asked, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        asked.set()
        with contextlib.suppress(ClientLeft), Attended(scope, receive):
            await asyncio.Event().wait()
        if started:
            await send({"type": "http.response.body", "body": b"Hello"})
        else:
            await Response("Hello")(scope, receive, send)
        ended.set()

    async with serve(Starlette(routes=[Mount("/", app)])) as url, asyncio.timeout(20):
        await leave(url, asked)
        await ended.wait()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@on_uvloop
async def test_a_client_that_left_before_a_block_that_does_not_wait(serve: Serve) -> None:
    """It is not cancelled behind it."""
    asked, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        asked.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        with Attended(scope, receive):
            pass
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.set()

    async with serve(Starlette(routes=[Mount("/", app)])) as url, asyncio.timeout(20):
        await leave(url, asked)
        await ended.wait()


@on_uvloop
async def test_a_client_that_leaves_is_missed_though_nobody_reads_its_requests(serve: Serve) -> None:
    """As those that wait are too many."""
    asked, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, _send: Send) -> None:
        asked.set()
        with contextlib.suppress(ClientLeft), Attended(scope, receive):
            await asyncio.Event().wait()
        ended.set()

    async with serve(Starlette(routes=[Mount("/", app)])) as url, asyncio.timeout(20):
        await leave(url, asked, requests=protocol.MOST_WAITING + 2)
        await ended.wait()


@on_uvloop
async def test_a_reply_that_is_through_is_forgotten(serve: Serve) -> None:
    """At once, though scope and reply know each other: the garbage collector has nothing to do."""
    found: list[Callable[[], object]] = []

    async def hello(request: Request) -> Response:
        found.append(request.scope["extensions"][CLIENT])
        return await until_client_leaves(request, asyncio.sleep(0, Response("Hello")))

    gc.disable()
    try:
        async with serve(Starlette(routes=[Route("/", hello)])) as url, httpx.AsyncClient() as client:
            await client.get(url)
            await client.get(url)
            assert found[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("head", "size"),
    [("GET / HTTP/1.1\r\nHost: g\r\nX: ", 0), ("GET /", 0), ("GET / HTTP/1.1\r\n", 30)],
    ids=["one header", "a path", "many headers"],
)
async def test_a_head_without_end(alone: Alone, monkeypatch: pytest.MonkeyPatch, head: str, size: int) -> None:
    monkeypatch.setattr(protocol, "MAX_HEAD_BYTES", 2**17)
    reader, writer = await asyncio.open_connection("127.0.0.1", alone.api.base_url.port)
    part = b"X: " + b"x" * size + b"\r\n" if size else b"x"
    writer.write(head.encode() + part * (2**17 // len(part) + 1))
    async with asyncio.timeout(20):
        reply = await reader.read()
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.endswith(b"The request's first line and headers are larger than 131072 bytes.")
    writer.close()


async def test_a_large_head_and_larger_bodies_are_fine(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_HEAD_BYTES", 2**17)
    for _ in range(4):
        headers = {"X": "x" * 50_000, "Y": "x" * 50_000}
        reply = await alone.api.post("/api/show", content=b'{"model": "demo"}'.ljust(2**19), headers=headers)
        assert reply.status_code == 200


async def test_a_client_that_leaves_is_missed_though_it_asked_on(alone: Alone) -> None:
    """Whose next requests wait behind the reply that nobody reads any more."""
    reply = Stream(*chat_events("Hel", finish=None)[:-1], end="hang")
    alone.engine.script(reply)
    reader, writer = await ask(alone, "POST /api/chat HTTP/1.1\r\nHost: localhost", SAY)
    async with asyncio.timeout(5):
        await reader.readuntil(b"Hel")
        writer.write(2 * b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writer.close()
        await reply.aborted.wait()


async def test_requests_that_do_not_wait_for_replies(alone: Alone) -> None:
    """All are answered, one after the other, however many."""
    alone.engine.script(Stream(*chat_events("Hel", "lo")))
    reader, writer = await ask(alone, "POST /api/chat HTTP/1.1\r\nHost: localhost", SAY)
    count = 3 * protocol.MOST_WAITING
    writer.write(count * b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n0\r\n\r\n")).count(b'"done":true') == 1
        for _ in range(count):
            assert (await reader.readuntil(b"Ollama is running")).startswith(b"HTTP/1.1 200 OK")
    writer.close()
