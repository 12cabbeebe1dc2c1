"""Streams at the pace of their clients: each token at once to a quick one, and no more than it takes to a slow one."""

import asyncio
import contextlib
import itertools
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import Alone
from tests.fake_engine import Stream, chat_events, events

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
PROMPT = {"model": "demo", "prompt": "Hi", "stream": True}
EVENTS = {"Accept": "text/event-stream"}
PATIENCE_S = 20.0


def chat_tokens(*texts: str) -> list[bytes]:
    return [chat_events(text)[1] for text in texts]


def thoughts(*texts: str) -> list[bytes]:
    return [event.replace(b'"content"', b'"reasoning"') for event in chat_tokens(*texts)]


def numbered_tokens(*texts: str) -> list[bytes]:
    """As they are where the ids of the tokens are asked for."""
    choices = [
        {"index": 0, "delta": {"content": text}, "finish_reason": None, "token_ids": [number, 1]}
        for number, text in enumerate(texts)
    ]
    chunks = (json.dumps({"choices": [choice]}, separators=(",", ":")) for choice in choices)
    return events(*chunks)


def completion_tokens(*texts: str) -> list[bytes]:
    return events(*({"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in texts))


def response_tokens(*texts: str) -> list[bytes]:
    return [
        b"event: response.output_text.delta\n"
        + events({"type": "response.output_text.delta", "delta": text, "sequence_number": number})[0]
        for number, text in enumerate(texts, start=2)
    ]


every_dialect = pytest.mark.parametrize(
    ("path", "body", "headers", "tokens"),
    [
        pytest.param("/api/chat", CHAT, {}, chat_tokens, id="chat"),
        pytest.param("/api/chat", CHAT, EVENTS, chat_tokens, id="chat, as events"),
        pytest.param("/api/chat", CHAT, {}, thoughts, id="chat, thinking"),
        pytest.param("/api/generate", PROMPT, {}, numbered_tokens, id="generate"),
        pytest.param("/api/generate", PROMPT | {"raw": True}, {}, completion_tokens, id="generate, raw"),
        pytest.param("/v1/chat/completions", CHAT, {}, chat_tokens, id="OpenAI's chat"),
        pytest.param("/v1/completions", PROMPT, {}, completion_tokens, id="OpenAI's completion"),
        pytest.param("/v1/responses", PROMPT | {"input": "Hi"}, {}, response_tokens, id="OpenAI's response"),
        pytest.param("/v1/messages", CHAT | {"max_tokens": 9}, {}, chat_tokens, id="Anthropic's message"),
        pytest.param("/v1/messages", CHAT | {"max_tokens": 9}, {}, thoughts, id="Anthropic's message, thinking"),
    ],
)  # fmt: skip


class Hearer:
    """A client that sees in which chunks a reply comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def chunk(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            size = int(await self._reader.readline(), 16)
            return (await self._reader.readexactly(size + 2))[:-2]

    async def head(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> AsyncIterator[bytes]:
        while chunk := await self.chunk():
            yield chunk


def request_bytes(path: str, body: dict[str, Any], headers: dict[str, str]) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


@contextlib.asynccontextmanager
async def asked(alone: Alone, path: str, body: dict[str, Any], headers: dict[str, str]) -> AsyncIterator[Hearer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", alone.api.base_url.port)
    writer.write(request_bytes(path, body, headers))
    hearer = Hearer(reader, writer)
    assert (await hearer.head()).startswith(b"HTTP/1.1 200 ")
    yield hearer
    writer.close()
    await writer.wait_closed()


class Led:
    """Writes what the test gives it, when it gives it."""

    def __init__(self) -> None:
        self._writes: asyncio.Queue[bytes | None] = asyncio.Queue()

    def write(self, data: bytes) -> None:
        self._writes.put_nowait(data)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while (data := await self._writes.get()) is not None:
            await response.write(data)
        return response


@every_dialect
async def test_each_token_comes_at_once(
    alone: Alone, path: str, body: dict[str, Any], headers: dict[str, str], tokens: Any
) -> None:
    """None is made before the client has the one before it."""
    engine = Led()
    alone.engine.script(engine)
    texts = [f'word{number} \\"quoted\\" ü' for number in range(6)]
    made = tokens(*texts)
    engine.write(made[0])
    async with asked(alone, path, body, headers) as client:
        heard = b""
        for number, token in enumerate(made):
            if number:
                engine.write(token)
            while b"word%d" % number not in heard:
                heard += await client.chunk()
        assert [int(word) for word in re.findall(rb"word(\d)", heard)] == [*range(6)]


@every_dialect
async def test_what_is_read_at_once_leaves_at_once(
    alone: Alone, path: str, body: dict[str, Any], headers: dict[str, str], tokens: Any
) -> None:
    engine = Led()
    alone.engine.script(engine)
    first, second, *others = tokens(*(f"word{number}" for number in range(9)))
    engine.write(first)
    async with asked(alone, path, body, headers) as client:
        heard = b""
        while b"word0" not in heard:
            heard += await client.chunk()
        engine.write(second)
        assert b"word1" in await client.chunk()
        engine.write(b"".join(others))
        assert [int(word) for word in re.findall(rb"word(\d)", await client.chunk())] == [*range(2, 9)]


PADDING = "x" * 2**15
MOST_ON_THE_WAY = 2**25
"""The sockets' buffers, which the system makes as large as it likes, and ours, which are small."""


class Torrent:
    """Writes numbered tokens as fast as they are taken until `enough` is set. stalled: one was not taken for long."""

    def __init__(self) -> None:
        self.written = 0
        self.stalled, self.enough = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in itertools.count():
            (token,) = chat_tokens(f"<{number}>{PADDING}")
            writing = asyncio.ensure_future(response.write(token))
            await asyncio.wait({writing}, timeout=0.3)
            if not writing.done():
                self.stalled.set()
            await writing
            self.written = number + 1
            if self.enough.is_set():
                break
        for event in chat_events("")[-3:]:
            await response.write(event)
        return response


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/chat", CHAT), ("/v1/chat/completions", CHAT), ("/v1/messages", CHAT | {"max_tokens": 9})],
)
async def test_a_client_that_stops_reading(alone: Alone, path: str, body: dict[str, Any]) -> None:
    """Its engine is not read from any more, nobody else notices, and in the end it gets all."""
    torrent = Torrent()
    alone.engine.script(torrent, Stream(*chat_events("Hello")))
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        deaf.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, ("127.0.0.1", alone.api.base_url.port))
        await loop.sock_sendall(deaf, request_bytes(path, body, {}))
        async with asyncio.timeout(PATIENCE_S):
            await torrent.stalled.wait()
        assert torrent.written * len(PADDING) < MOST_ON_THE_WAY
        other = await alone.api.post(path, json=body)
        assert "Hello" in other.text

        torrent.enough.set()
        client = Hearer(*await asyncio.open_connection(sock=deaf, limit=2**20))
        await client.head()
        heard = b"".join([chunk async for chunk in client.rest()])
        assert [int(word) for word in re.findall(rb"<(\d+)>", heard)] == [*range(torrent.written)]
        assert heard.count(PADDING.encode()) == torrent.written
        client.writer.close()
