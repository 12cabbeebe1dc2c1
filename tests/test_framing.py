"""How replies leave, and what happens when the client leaves first: real ASGI calls without a server."""

import asyncio
import contextlib

import pytest
from starlette.requests import Request

from vllama.errors import ApiError
from vllama.framing import STOPPING, ClientLeft, JSONResponse, StreamResponse, stream, until_client_leaves

LINES = [[b'{"a":1}'], [b'{"b":2}', b'{"c":"\xc3\xbc"}'], [b'{"done":true}']]


class Client:
    """One connection: what it received, and `left`, to be set when it goes away.

    slow: it takes nothing of the body until the server is stopping.
    """

    def __init__(self, *headers, slow=False):
        self.scope = {"type": "http", "method": "POST", "path": "/", "headers": [*headers], "query_string": b""}
        self.sent = []
        self.left = asyncio.Event()
        self.reached = asyncio.Event()
        self.slow = slow
        self.stopping = False
        self.request = Request(self.scope, self.receive)

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.reached.set()
            if self.slow and not self.stopping:
                await asyncio.Event().wait()

    async def run(self, lines):
        response = await stream(self.request, lines)
        await response(self.scope, self.receive, self.send)

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])


class Source:
    """Lines of a reply. stop_at: where it waits for ever. error: what it raises there instead."""

    def __init__(self, stop_at=None, error=None):
        self.stop_at = stop_at
        self.error = error
        self.waiting = asyncio.Event()
        self.closed = False

    async def lines(self):
        try:
            for position, line in enumerate(LINES):
                if position == self.stop_at:
                    self.waiting.set()
                    if self.error:
                        raise self.error
                    await asyncio.Event().wait()
                yield line
        finally:
            try:
                await asyncio.sleep(0)  # closing may take its time
            finally:
                self.closed = True


ACCEPT_EVENTS = (b"accept", b"application/json, text/event-stream")
HEADERS = [pytest.param([], id="ndjson"), pytest.param([ACCEPT_EVENTS], id="sse")]


async def test_lines():
    client, source = Client(), Source()
    await client.run(source.lines())
    assert client.body == b'{"a":1}\n{"b":2}\n{"c":"\xc3\xbc"}\n{"done":true}\n'
    assert client.headers[b"content-type"] == b"application/x-ndjson"
    assert b"content-length" not in client.headers
    assert client.sent[0]["status"] == 200
    assert [message["body"] for message in client.sent[1:-1]] == [
        b'{"a":1}\n', b'{"b":2}\n{"c":"\xc3\xbc"}\n', b'{"done":true}\n',
    ]  # fmt: skip
    assert [message["more_body"] for message in client.sent[1:]] == [True, True, True, False]
    assert source.closed


async def test_events():
    client, source = Client(ACCEPT_EVENTS), Source()
    await client.run(source.lines())
    assert client.body == (b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: {"c":"\xc3\xbc"}\n\ndata: {"done":true}\n\n')
    assert client.headers[b"content-type"].startswith(b"text/event-stream")
    assert client.headers[b"cache-control"] == b"no-cache"
    assert source.closed


@pytest.mark.parametrize("accepted", [b"text/event-stream", b"text/event-stream, application/x-ndjson;q=0"])
async def test_events_where_they_are_asked_for(accepted):
    client = Client((b"accept", accepted))
    await client.run(Source().lines())
    assert client.headers[b"content-type"].startswith(b"text/event-stream")


@pytest.mark.parametrize(
    "accepted",
    [
        *(b"*/*", b"application/json", b"application/x-ndjson", b"text/html", b"text/event-streams", b"text/*"),
        *(b"text/event-stream;q=0", b"application/json, Text/Event-Stream ; Q = 0.000 ; x=1", b"x/text/event-stream"),
        *(b"application/x-ndjson, text/event-stream", b"text/event-stream, Application/X-NDJSON ; q=0.5"),
    ],
)
async def test_lines_are_what_everybody_else_gets(accepted):
    client = Client((b"accept", accepted))
    await client.run(Source().lines())
    assert client.headers[b"content-type"] == b"application/x-ndjson"


async def test_a_source_of_nothing():
    async def nothing():
        return
        yield

    client = Client()
    await client.run(nothing())
    assert (client.sent[0]["status"], client.body) == (200, b"")


@pytest.mark.parametrize("headers", HEADERS)
async def test_nothing_is_sent_before_the_first_line(headers):
    client, source = Client(*headers), Source(stop_at=0)
    task = asyncio.create_task(client.run(source.lines()))
    await source.waiting.wait()
    assert client.sent == []
    task.cancel()
    with pytest.raises(ApiError, match=STOPPING) as raised:
        await task
    assert raised.value.status == 503
    assert source.closed


@pytest.mark.parametrize(
    ("headers", "last"),
    [([], f'{{"error":"{STOPPING}"}}\n'), ([ACCEPT_EVENTS], f'data: {{"error":"{STOPPING}"}}\n\n')],
    ids=["ndjson", "sse"],
)
@pytest.mark.parametrize("slow", [False, True])
async def test_the_server_stops_in_the_middle(headers, last, slow):
    client, source = Client(*headers, slow=slow), Source(stop_at=1)
    task = asyncio.create_task(client.run(source.lines()))
    await (client.reached if slow else source.waiting).wait()
    client.stopping = True
    task.cancel()
    await task
    assert client.sent[-1] == {"type": "http.response.body", "body": last.encode(), "more_body": False}
    assert source.closed


@pytest.mark.parametrize("headers", HEADERS)
async def test_an_error_before_the_first_line_is_the_callers(headers):
    client, source = Client(*headers), Source(stop_at=0, error=ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await client.run(source.lines())
    assert client.sent == []
    assert source.closed


@pytest.mark.parametrize("headers", HEADERS)
async def test_an_error_in_the_middle_breaks_the_response_off(headers):
    client, source = Client(*headers), Source(stop_at=2, error=ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await client.run(source.lines())
    assert client.sent[-1]["more_body"]
    assert source.closed


@pytest.mark.parametrize("headers", HEADERS)
async def test_the_client_leaves_before_the_first_line(headers):
    client, source = Client(*headers), Source(stop_at=0)
    task = asyncio.create_task(client.run(source.lines()))
    await source.waiting.wait()
    client.left.set()
    with pytest.raises(ClientLeft):
        await task
    assert client.sent == []
    assert source.closed


@pytest.mark.parametrize("stop_at", [1, 2])
@pytest.mark.parametrize("headers", HEADERS)
async def test_the_client_leaves_in_the_middle(headers, stop_at):
    client, source = Client(*headers), Source(stop_at=stop_at)
    task = asyncio.create_task(client.run(source.lines()))
    await source.waiting.wait()
    client.left.set()
    await task
    assert source.closed
    assert client.sent[-1]["more_body"]


@pytest.mark.parametrize("headers", HEADERS)
async def test_a_slow_reader_leaves(headers):
    client, source = Client(*headers, slow=True), Source()
    task = asyncio.create_task(client.run(source.lines()))
    await client.reached.wait()
    await settle()
    assert len(client.sent) == 2  # the second chunk waits until the first is taken
    client.left.set()
    await task
    assert source.closed


@pytest.mark.parametrize("headers", HEADERS)
async def test_cancelled_while_the_head_is_sent(headers):
    client, source = Client(*headers), Source()
    response = await stream(client.request, source.lines())

    async def send(_message):
        await asyncio.Event().wait()

    task = asyncio.create_task(response(client.scope, client.receive, send))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("headers", HEADERS)
async def test_cancelled_anywhere(headers, steps):
    """The request's task may be cancelled at every await: its source is closed, no task stays behind."""
    client, source = Client(*headers, slow=True), Source()
    before = asyncio.all_tasks()
    task = asyncio.create_task(client.run(source.lines()))
    await settle(steps)
    began, client.stopping = bool(client.sent), True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ApiError):
        await task
    assert source.closed or not began
    assert not client.sent or not client.sent[-1]["more_body"]
    assert asyncio.all_tasks() == before


async def test_an_error_of_the_connection():
    async def send(_message):
        raise OSError("gone")

    client, source = Client(), Source()
    response = await stream(client.request, source.lines())
    with pytest.raises(OSError, match="gone"):
        await response(client.scope, client.receive, send)
    assert source.closed


async def test_chunks_of_a_stream_response():
    async def chunks():
        yield b"a"
        yield b"b"

    client = Client()
    await StreamResponse(chunks(), "text/event-stream", last_words=b"end")(client.scope, client.receive, client.send)
    assert client.body == b"ab"


async def test_work_is_done_while_the_client_waits():
    async def work():
        await asyncio.sleep(0)
        return 42

    assert await until_client_leaves(Client().request, work()) == 42


async def test_work_is_cancelled_when_the_client_leaves():
    client, cancelled = Client(), asyncio.Event()

    async def work():
        client.left.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ClientLeft):
        await until_client_leaves(client.request, work())
    assert cancelled.is_set()


async def test_work_that_ends_as_the_client_leaves_counts():
    client = Client()

    async def work():
        client.left.set()
        return 42

    assert await until_client_leaves(client.request, work()) == 42


async def test_errors_of_work():
    async def work():
        raise KeyError("x")

    with pytest.raises(KeyError):
        await until_client_leaves(Client().request, work())


async def test_work_is_cancelled_with_its_caller():
    before, cancelled = asyncio.all_tasks(), asyncio.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.create_task(until_client_leaves(Client().request, work()))
    await settle()
    task.cancel()
    with pytest.raises(ApiError, match=STOPPING):
        await task
    assert cancelled.is_set()
    assert asyncio.all_tasks() == before


async def test_an_object():
    client = Client()
    await JSONResponse({"a": "ü", "b": None}, 404)(client.scope, client.receive, client.send)
    assert client.body == '{"a":"ü","b":null}'.encode()
    assert client.sent[0]["status"] == 404
    assert client.headers == {b"content-length": b"19", b"content-type": b"application/json; charset=utf-8"}


async def settle(steps=20):
    for _ in range(steps):
        await asyncio.sleep(0)
