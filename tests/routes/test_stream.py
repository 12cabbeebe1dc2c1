"""An engine's reply on its way through the gateway, read by read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import Message

from tests.engine.raw import Line
from vllama.routes._relay import _Events
from vllama.routes._stream import Pipe
from vllama.streams import Outlet
from vllama.translate.openai_reply import Renamed

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(number: int) -> bytes:
    return b'data: {"model":"demo","text":"%d"}\n\n' % number


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


class Client:
    """gate: while it is closed, nothing more is taken. expressed: what was written at once."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.messages: list[Message] = []
        self.expressed: list[bytes] = []

    @property
    def taken(self) -> bytes:
        return b"".join(message["body"] for message in self.messages)

    async def send(self, message: Message) -> None:
        await self.gate.wait()
        self.messages.append(message)

    def write(self, data: bytes) -> bool:
        if self.gate.is_set():
            self.messages.append({"body": data, "more_body": True})
            self.expressed.append(data)
        return self.gate.is_set()


@contextlib.asynccontextmanager
async def relaying(*said: bytes) -> AsyncIterator[tuple[Line, Client]]:
    """A reply that has begun so; it is read to its end, which comes last."""
    line, client = Line(), Client()
    asking = await line.ask()
    line.say(HEAD, *map(chunk, said))
    pipe, outlet = Pipe(await asking, _Events(Renamed("demo"))), Outlet(client.send, client.write)

    async def relay() -> None:
        await outlet.put(await pipe.first())
        await pipe.rest(outlet)
        await outlet.end()

    relaying = asyncio.create_task(relay())
    for _ in range(3):
        await asyncio.sleep(0)
    yield line, client
    await asyncio.wait_for(relaying, 20)


async def test_the_last_read_goes_out_with_the_end() -> None:
    async with relaying(event(0)) as (line, client):
        line.say(chunk(event(1)), chunk(event(2)) + b"0\r\n\r\n")
    assert client.taken == event(0) + event(1) + event(2)
    assert client.messages[-1] == {"type": "http.response.body", "body": event(2), "more_body": False}


async def test_the_last_read_goes_out_where_the_end_is_not_what_it_should_be() -> None:
    """The server stops before the reply's task has its turn."""
    line, client = Line(), Client()
    asking = await line.ask()
    line.say(HEAD, chunk(event(0)))
    pipe, outlet = Pipe(await asking, _Events(Renamed("demo"))), Outlet(client.send, client.write)
    await pipe.first()
    rest = asyncio.create_task(pipe.rest(outlet))
    await asyncio.sleep(0)
    line.say(chunk(event(1)) + b"0\r\n\r\n")
    rest.cancel()
    await asyncio.wait({rest})
    assert rest.cancelled()
    assert client.taken == event(1)


async def test_behind_a_part_of_an_event_the_next_one_is_read() -> None:
    async with relaying(event(0)) as (line, client):
        line.say(chunk(event(1)))
        assert client.expressed[-1] == event(1)
        line.say(chunk(b": a comm"), chunk(b"ent\n"), chunk(event(2)), chunk(event(3)), b"0\r\n\r\n")
    assert client.taken == event(0) + event(1) + b": a comment\n" + event(2) + event(3)


async def test_nothing_overtakes_what_is_held() -> None:
    async with relaying(event(0)) as (line, client):
        client.gate.clear()
        line.say(chunk(event(1)))
        client.gate.set()  # and before the reply's task has its turn
        line.say(chunk(event(2)), chunk(event(3)), b"0\r\n\r\n")  # a transport may have had it already
    assert client.taken == b"".join(map(event, range(4)))
