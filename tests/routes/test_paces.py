"""A stream whose engine, client and server take turns in any order: nothing is lost, doubled or out of its order."""

import asyncio
import random
from typing import Any

import pytest

from tests.engine.raw import Line
from vllama.errors import ApiError, EngineError
from vllama.routes._relay import _Events
from vllama.routes._stream import Pipe
from vllama.streams import Outlet
from vllama.translate.openai_reply import Renamed

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDS = {"end": b"0\r\n\r\n", "garbage": b"zz\r\n", "death": b""}
ERROR = b'data: {"error":{"message":"boom"}}\n\n'


def cut(chance: random.Random, data: bytes, most: int) -> list[bytes]:
    pieces = []
    while data:
        size = chance.randint(1, most)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def recut(chance: random.Random, pieces: list[bytes], most: int) -> list[bytes]:
    """Nearly all as they are, as an engine's events come; or anywhere."""
    if chance.random() < 0.5:
        return cut(chance, b"".join(pieces), most)
    return [part for piece in pieces for part in (cut(chance, piece, most) if chance.random() < 0.1 else [piece])]


class Client:
    """Takes what it is sent, now and then only when it is let."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._slowness = chance.random() * 0.8
        self.taken = b""
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, message: Any) -> None:
        if self._chance.random() < self._slowness:
            self.gate.clear()
            await self.gate.wait()
        self.taken += message["body"]

    def write(self, data: bytes) -> bool:
        assert self.gate.is_set(), "written behind a write that is held back"
        if self._chance.random() < self._slowness:
            return False
        self.taken += data
        return True


async def stream(line: Line, client: Client) -> None:
    response = await line.connection.ask(b"GET / HTTP/1.1\r\n\r\n")
    try:
        pipe = Pipe(response, _Events(Renamed("demo")))
        outlet = Outlet(client.send, client.write)
        await outlet.put(await pipe.first())
        await pipe.rest(outlet)
        await outlet.end()
    finally:
        response.close()


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.parametrize("end", [*ENDS, "error"])
@pytest.mark.parametrize("seed", range(60))
async def test_whoever_comes_first(seed: int, end: str, is_cancelled: bool) -> None:
    chance = random.Random(seed)
    spoken = [b'data: {"model":"","text":"%d "}\n\n' % number for number in range(chance.randint(1, 24))]
    chunks = recut(chance, [*spoken, *([ERROR] if end == "error" else [])], 60)
    framed = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    said = recut(chance, [HEAD, *framed, *filter(None, [ENDS.get(end)])], 90)
    events = b"".join(spoken).replace(b'"model":""', b'"model":"demo"')
    line, client = Line(), Client(chance)
    task = asyncio.create_task(stream(line, client))
    await asyncio.sleep(0)
    cancelled_at = chance.randint(0, 40) if is_cancelled else -1
    for turn in range(5000):
        if task.done():
            break
        if turn == cancelled_at:
            task.cancel()
        match chance.randrange(4):
            case 0 if said and line.wire.is_reading_:
                line.say(said.pop(0))
            case 0 if not said and end != "end" and line.wire.is_reading_:
                line.hang_up(chance.choice([None, ConnectionResetError()]))
            case 1:
                client.gate.set()
            case 2:
                line.connection.resume_writing()
            case _:
                await asyncio.sleep(0)
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, asyncio.CancelledError):
        assert is_cancelled
        assert events.startswith(client.taken)
        return
    assert client.taken == events
    assert (outcome is None) if end == "end" else isinstance(outcome, ApiError | EngineError)
    assert (line.free, line.wire.is_aborted or line.is_lost) == (end == "end", end != "end")
