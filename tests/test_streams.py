"""How replies leave that grow, and what happens when the client leaves first: real ASGI calls without a server."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

from tests import asgi
from tests.asgi import of_any_server  # noqa: F401
from vllama.errors import ApiError
from vllama.framing import CLIENT, STOPPING, ClientLeft
from vllama.streams import Outlet, begin, behind, finish, poured

pytestmark = pytest.mark.usefixtures("of_any_server")

CHUNKS = [b'{"a":1}\n', b'{"b":2}\n{"c":"\xc3\xbc"}\n', b'{"done":true}\n']
LAST_WORDS = b"stopping\n"


class Client(asgi.Client):
    """slow: it takes nothing of the body until the server is stopping."""

    def __init__(self, *, slow=False):
        super().__init__()
        self.reached = asyncio.Event()
        self.slow = slow
        self.stopping = False

    async def send(self, message):
        await super().send(message)
        if message["type"] == "http.response.body":
            self.reached.set()
            if self.slow and not self.stopping:
                await asyncio.Event().wait()

    async def run(self, stream):
        response = await begin(self.request, stream, "application/x-ndjson", LAST_WORDS)
        await response(self.scope, self.receive, self.send)

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])


class Source:
    """Chunks of a reply. stop_at: where it waits for ever. error: what it raises there instead."""

    def __init__(self, stop_at=None, error=None):
        self.stop_at = stop_at
        self.error = error
        self.waiting = asyncio.Event()
        self.closed = False

    async def chunks(self):
        try:
            for position, chunk in enumerate(CHUNKS):
                if position == self.stop_at:
                    self.waiting.set()
                    if self.error:
                        raise self.error
                    await asyncio.Event().wait()
                yield chunk
        finally:
            try:
                await asyncio.sleep(0)  # closing may take its time
            finally:
                self.closed = True

    async def written(self):
        """The chunks, written by the stream itself."""
        async with contextlib.aclosing(self.chunks()) as chunks:
            outlet = yield await anext(chunks)
            async for chunk in chunks:
                if (held := outlet.write(chunk)) is not None:
                    await held

    def passed(self):
        return behind(nothing(), self.written())

    def behind_another(self):
        return behind(some(), self.written())


async def nothing():
    return
    yield


async def some():
    yield b"some\n"


def of_chunks(source):
    return poured(source.chunks())


STREAMS = [of_chunks, Source.written, Source.passed]
streams = pytest.mark.parametrize("stream", STREAMS)


@streams
async def test_a_stream(stream):
    client, source = Client(), Source()
    await client.run(stream(source))
    assert client.headers[b"content-type"] == b"application/x-ndjson"
    assert client.headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in client.headers
    assert client.sent[0]["status"] == 200
    assert [message["body"] for message in client.sent[1:-1]] == CHUNKS
    assert [message["more_body"] for message in client.sent[1:]] == [True, True, True, False]
    assert source.closed


async def test_a_stream_behind_chunks():
    client, source = Client(), Source()
    await client.run(source.behind_another())
    assert [message["body"] for message in client.sent[1:]] == [b"some\n", *CHUNKS, b""]
    assert source.closed


async def test_what_fails_behind_chunks():
    client, source = Client(), Source(stop_at=0, error=ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await client.run(source.behind_another())
    assert [message["body"] for message in client.sent[1:]] == [b"some\n"]
    assert source.closed


async def test_a_source_of_nothing():
    client = Client()
    await client.run(poured(nothing()))
    assert (client.sent[0]["status"], client.body) == (200, b"")


@streams
async def test_nothing_is_sent_before_the_first_chunk(stream):
    client, source = Client(), Source(stop_at=0)
    task = asyncio.create_task(client.run(stream(source)))
    await source.waiting.wait()
    assert client.sent == []
    task.cancel()
    with pytest.raises(ApiError, match=STOPPING) as raised:
        await task
    assert raised.value.status == 503
    assert source.closed


@pytest.mark.parametrize("slow", [False, True])
@streams
async def test_the_server_stops_in_the_middle(stream, slow):
    client, source = Client(slow=slow), Source(stop_at=1)
    task = asyncio.create_task(client.run(stream(source)))
    await (client.reached if slow else source.waiting).wait()
    client.stopping = True
    task.cancel()
    await task
    assert client.sent[-1] == {"type": "http.response.body", "body": LAST_WORDS, "more_body": False}
    assert source.closed


@streams
async def test_the_server_stops_before_the_end_of_a_whole_reply_is_taken(stream):
    client, source = Client(), Source()
    at_end, paces = asyncio.Event(), iter([asyncio.Event()])

    async def send(message):
        if not message.get("more_body", True) and (pace := next(paces, None)) is not None:
            at_end.set()
            await pace.wait()
        await client.send(message)

    response = await begin(client.request, stream(source), "text/plain", LAST_WORDS)
    task = asyncio.create_task(response(client.scope, client.receive, send))
    await at_end.wait()
    task.cancel()
    await task
    assert client.body.endswith(CHUNKS[-1])
    assert not client.sent[-1]["more_body"]


@streams
async def test_the_server_stops_before_a_client_that_takes_nothing(stream):
    client, source = Client(slow=True), Source()
    task = asyncio.create_task(client.run(stream(source)))
    await client.reached.wait()
    task.cancel()
    await settle()
    assert source.closed
    assert client.sent[-1]["body"] == LAST_WORDS
    task.cancel()  # as the loop does that ends
    await task


@streams
async def test_an_error_before_the_first_chunk_is_the_callers(stream):
    client, source = Client(), Source(stop_at=0, error=ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await client.run(stream(source))
    assert client.sent == []
    assert source.closed


@streams
async def test_an_error_in_the_middle_breaks_the_response_off(stream):
    client, source = Client(), Source(stop_at=2, error=ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await client.run(stream(source))
    assert client.sent[-1]["more_body"]
    assert source.closed


@streams
async def test_the_client_leaves_before_the_first_chunk(stream):
    client, source = Client(), Source(stop_at=0)
    task = asyncio.create_task(client.run(stream(source)))
    await source.waiting.wait()
    client.left.set()
    with pytest.raises(ClientLeft):
        await task
    assert client.sent == []
    assert source.closed


@pytest.mark.parametrize("stop_at", [1, 2])
@streams
async def test_the_client_leaves_in_the_middle(stream, stop_at):
    client, source = Client(), Source(stop_at=stop_at)
    task = asyncio.create_task(client.run(stream(source)))
    await source.waiting.wait()
    client.left.set()
    await task
    assert source.closed
    assert client.sent[-1]["more_body"]


@streams
async def test_a_slow_reader_leaves(stream):
    client, source = Client(slow=True), Source()
    task = asyncio.create_task(client.run(stream(source)))
    await client.reached.wait()
    await settle()
    assert len(client.sent) == 2  # the second chunk waits until the first is taken
    client.left.set()
    await task
    assert source.closed


@streams
async def test_cancelled_while_the_head_is_sent(stream):
    client, source = Client(), Source()
    response = await begin(client.request, stream(source), "text/plain", LAST_WORDS)

    async def send(_message):
        await asyncio.Event().wait()

    task = asyncio.create_task(response(client.scope, client.receive, send))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed


@pytest.mark.parametrize("steps", range(12))
@streams
async def test_cancelled_anywhere(stream, steps):
    """The request's task may be cancelled at every await: its source is closed, no task stays behind."""
    client, source = Client(slow=True), Source()
    before = asyncio.all_tasks()
    task = asyncio.create_task(client.run(stream(source)))
    await settle(steps)
    began, client.stopping = bool(client.sent), True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, ApiError):
        await task
    assert source.closed or not began
    assert not client.sent or not client.sent[-1]["more_body"]
    assert asyncio.all_tasks() == before


@streams
async def test_an_error_of_the_connection(stream):
    async def send(_message):
        raise OSError("gone")

    client, source = Client(), Source()
    response = await begin(client.request, stream(source), "text/plain", LAST_WORDS)
    with pytest.raises(OSError, match="gone"):
        await response(client.scope, client.receive, send)
    assert source.closed


class Server:
    """One whose `send` waits at some steps: `taken` is what it took until now."""

    def __init__(self, waits=0, error=None):
        self.waits = waits
        self.error = error
        self.taken = []

    async def send(self, message):
        for _ in range(self.waits):
            await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.taken.append(message["body"])


async def test_what_is_taken_at_once_needs_no_task():
    server = Server()
    assert Outlet(server.send).write(b"a") is None
    assert server.taken == [b"a"]


async def test_what_is_not_taken_at_once_is_waited_for():
    server = Server(waits=2)
    held = Outlet(server.send).write(b"a")
    assert server.taken == []
    await held
    assert server.taken == [b"a"]


@pytest.mark.parametrize("waits", [0, 2])
async def test_what_the_server_raises(waits):
    with pytest.raises(OSError, match="gone"):
        await Outlet(Server(waits, OSError("gone")).send).put(b"a")


async def test_a_wait_that_is_cancelled():
    server = Server(waits=10)
    held = asyncio.ensure_future(Outlet(server.send).put(b"a"))
    await settle(3)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    assert server.taken == []


async def test_a_server_that_can_be_written_to():
    """What it does not take is sent as to any other."""
    written, client = [], Client()

    def write(data):
        if b"a" in data:
            written.append(data)
            return True
        return False

    client.scope["extensions"] = {CLIENT: lambda: SimpleNamespace(write=write, attend=lambda _: lambda: None)}
    await client.run(poured(Source().chunks()))
    assert written == CHUNKS[:1]
    assert [message["body"] for message in client.sent[1:]] == [*CHUNKS[1:], b""]


async def test_what_goes_out_with_the_end():
    server = Server()
    outlet = Outlet(server.send)
    await outlet.put(b"a")
    outlet.keep_for_end(b"b")
    assert server.taken == [b"a"]
    await outlet.end(b"c")
    assert server.taken == [b"a", b"bc"]
    outlet.keep_for_end(b"d")
    await outlet.put(b"e")
    assert server.taken[-1] == b"de", "as it was there before"


async def test_a_stream_is_finished():
    server, source = Server(), Source()
    stream = source.written()
    assert await anext(stream) == CHUNKS[0]
    await finish(stream, Outlet(server.send))
    assert server.taken == CHUNKS[1:]
    assert source.closed


async def settle(steps=20):
    for _ in range(steps):
        await asyncio.sleep(0)
