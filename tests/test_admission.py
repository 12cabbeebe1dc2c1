"""Requests beyond the bound: told so at once, whoever asks, and let in as soon as there is room."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.conftest import Alone
from tests.crowd import CHAT, MOST, full, until
from tests.fake_engine import Silence, hang_up, whole
from vllama import framing
from vllama.admission import Admission, Entrance, make_admission
from vllama.bodies import SMALL
from vllama.overload import BUSY


@pytest.fixture
def crowded(alone: Alone) -> Alone:
    """A gateway that works on three requests at a time."""
    alone.gateway.admission = Admission(MOST)
    return alone


OPENAI = {"error": {"message": BUSY, "type": "api_error", "param": None, "code": None}}
REFUSALS = [
    ("/api/chat", CHAT, {"error": BUSY}),
    ("/api/embed", {"model": "demo-embed", "input": "Hello!"}, {"error": BUSY}),
    ("/api/pull", {"model": "demo"}, {"error": BUSY}),
    ("/v1/chat/completions", CHAT, OPENAI),
    ("/v1/embeddings", {"model": "demo-embed", "input": "Hello!"}, OPENAI),
]


def check_pause(reply: httpx.Response) -> None:
    assert 1 <= int(reply.headers["retry-after"]) <= 5


async def test_what_is_too_much_is_refused_at_once_until_one_ends(crowded: Alone) -> None:
    async with full(crowded) as running:
        for path, body, error in REFUSALS:
            reply = await crowded.api.post(path, json=body)
            assert (reply.status_code, reply.json()) == (503, error)
            check_pause(reply)
        asked = len(crowded.engine.asked)
        assert asked == MOST, "no refused request reached the engine"
        await running[0].aclose()
        await until(lambda: crowded.gateway.admission.in_flight < MOST)
        crowded.engine.script(whole({"choices": []}))
        assert (await crowded.api.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_a_refusal_waits_for_nothing() -> None:
    """Not for a turn of the loop."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    gate = Admission(1)
    gate.in_flight = 1
    refusing = Entrance(missing, lambda: gate)(scope(0), receive, send)
    with pytest.raises(StopIteration):
        refusing.send(None)
    assert (sent[0]["status"], sent[-1]["more_body"]) == (503, False)
    assert gate.in_flight == 1


async def missing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError


async def test_in_anthropics_words(crowded: Alone) -> None:
    async with full(crowded):
        reply = await crowded.api.post("/v1/messages", json=CHAT | {"max_tokens": 9})
    told = reply.json()
    assert (reply.status_code, told["error"]) == (503, {"type": "overloaded_error", "message": BUSY})
    assert reply.headers["request-id"] == told["request_id"]
    check_pause(reply)


async def test_those_who_are_refused_together_are_not_to_return_together(crowded: Alone) -> None:
    async with full(crowded):
        replies = [await crowded.api.post("/api/chat", json=CHAT) for _ in range(40)]
    assert len({reply.headers["retry-after"] for reply in replies}) > 1


async def test_who_looks_is_let_in(crowded: Alone) -> None:
    crowded.engine.answer = whole(b"")  # to those who ask for its numbers
    async with full(crowded):
        for path in ("/", "/health", *(f"/api/{name}" for name in ("version", "ps", "tags", "engines")), "/v1/models"):
            assert (await crowded.api.get(path)).status_code == 200, path
        assert (await crowded.api.post("/api/show", json={"model": "demo"})).status_code == 200
        assert (await crowded.api.request("DELETE", "/api/delete", json={"model": "demo"})).status_code == 400
        told = (await crowded.api.get("/api/engines")).json()["gateway"]
        assert told == {"requests": MOST, "max_requests": MOST, "bodies": 0, "max_bodies": 2**30}


async def test_pages_can_read_the_refusal(crowded: Alone) -> None:
    async with full(crowded):
        reply = await crowded.api.post("/api/chat", json=CHAT, headers={"Origin": "http://localhost:3000"})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (503, "http://localhost:3000")


async def test_the_server_says_which_setting_it_was_but_not_each_time(
    crowded: Alone, caplog: pytest.LogCaptureFixture
) -> None:
    async with full(crowded):
        for _ in range(3):
            await crowded.api.post("/api/chat", json=CHAT)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "busy: max_requests is reached, at 3; refused by now: 1"
    ]
    assert crowded.gateway.admission.requests.refused == 3


async def test_a_request_that_is_asked_again_counts_once(crowded: Alone) -> None:
    """Its engine is lost under it: there is room for one request, in all and on an engine."""
    crowded.gateway.admission = Admission(1)
    crowded.scheduler.bound.most = 1
    crowded.engine.script(hang_up, whole({"choices": []}))
    assert (await crowded.api.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert len(crowded.engine.asked) == 2
    await until(lambda: crowded.gateway.admission.in_flight == 0)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_crowd_on_one_engine_keeps_nobody_from_the_others(alone: Alone, path: str) -> None:
    alone.scheduler.bound.most = 2
    silence = Silence()
    alone.engine.script(silence, Silence())
    held = [asyncio.create_task(alone.api.post("/api/chat", json=CHAT)) for _ in range(2)]
    await until(lambda: len(alone.engine.asked) == 2)
    reply = await alone.api.post(path, json=CHAT)
    assert (reply.status_code, BUSY in reply.text) == (503, True)
    check_pause(reply)
    alone.engine.script(whole({"data": [{"embedding": [1.0], "index": 0}], "usage": {"prompt_tokens": 1}}))
    reply = await alone.api.post("/api/embed", json={"model": "demo-embed", "input": "Hello!"})
    assert reply.status_code == 200
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await until(lambda: alone.gateway.admission.in_flight == 0)
    alone.engine.script(whole({"choices": []}))
    assert (await alone.api.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_the_count_is_right_however_requests_end() -> None:
    """Answered, failed, or cancelled: ten thousand, a hundred at a time."""
    gate = Admission(1000)
    ends = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        gate.bodies.take(scope, 2 * SMALL)
        if scope["number"] % 3 == 0:
            raise ZeroDivisionError
        if scope["number"] % 3 == 1:
            await ends.wait()

    entrance = Entrance(app, lambda: gate)
    for _ in range(100):
        tasks = [asyncio.create_task(entrance(scope(number), receive, nothing)) for number in range(100)]
        await asyncio.sleep(0)
        assert gate.in_flight == len([task for task in tasks if not task.done()]) == 33
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.in_flight, gate.bodies.held) == (0, 0)


def scope(number: int) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/api/chat", "headers": [], "number": number}


async def receive() -> Message:
    return {"type": "http.disconnect"}


async def nothing(_message: Message) -> None:
    pass


@pytest.mark.parametrize(
    ("wanted", "files", "most", "connections"),
    [
        (None, 20000, 4096, 15648),
        (None, 65536, 4096, 61184),
        (10000, 65536, 10000, 55280),
        (10, 65536, 10, 65270),
        (None, 4096, 1280, 2560),
        (None, 1024, 256, 512),
        (500, 1024, 256, 512),
        (None, 256, 64, 128),
        (None, 20, 5, 10),
    ],
)
def test_bounds_by_open_files(
    caplog: pytest.LogCaptureFixture, wanted: int | None, files: int, most: int, connections: int
) -> None:
    bounds = make_admission(wanted, 2**20, files)
    assert (bounds.requests.most, bounds.connections, bounds.bodies.most) == (most, connections, 2**22)
    assert 2 * most < files
    assert [record.message for record in caplog.records] == [
        f"max_requests is {most}, not {wanted}, as {files} files may be open: raise the limit where the server is "
        "started (`ulimit -n 65536`, or LimitNOFILE= of a systemd unit)"
    ] * (wanted is not None and wanted > most)


class Line:
    """A connection to a gateway, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def reply(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def closed(self) -> bytes:
        """What comes until the server closes it."""
        async with asyncio.timeout(20):
            return await self.reader.read()


@pytest.fixture
async def line(crowded: Alone) -> AsyncGenerator[Line, None]:
    reader, writer = await asyncio.open_connection("127.0.0.1", crowded.api.base_url.port)
    yield Line(reader, writer)
    writer.close()


BODY = json.dumps(CHAT).encode()
HEAD = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
VERSION = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("late", [False, True], ids=["with its head", "after the refusal"])
async def test_a_small_body_leaves_its_connection_usable(crowded: Alone, line: Line, late: bool) -> None:
    async with full(crowded):
        for _ in range(3):
            head = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY)
            line.writer.write(head if late else head + BODY)
            status, headers, body = await line.reply()
            assert (status, json.loads(body), "connection" in headers) == (503, {"error": BUSY}, False)
            if late:
                line.writer.write(BODY)
        line.writer.write(VERSION)
        assert (await line.reply())[0] == 200


async def test_a_refused_get_has_no_body_to_wait_for(crowded: Alone, line: Line) -> None:
    async with full(crowded):
        line.writer.write(HEAD + b"\r\n" + VERSION)
        assert (await line.reply())[0] == 503
        assert (await line.reply())[0] == 200


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: %d\r\n\r\n" % 2**28,
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    ],
    ids=["large", "of unknown length", "offered"],
)
async def test_another_body_is_not_waited_for(
    crowded: Alone, line: Line, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(framing, "LINGER_S", 0.01)
    async with full(crowded):
        line.writer.write(HEAD + rest)
        status, headers, _ = await line.reply()
        assert (status, headers["connection"]) == (503, "close")
        assert await line.closed() == b""
