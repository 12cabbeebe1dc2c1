"""An engine without a model: streams chats in the bytes of vLLM, as fast, or as evenly, as it is told to.

    python -m benchmarks._synthetic --unix PATH --port PORT

What it says was recorded from vLLM 0.32 (`tests/recordings`): the events, of which it changes the ids and the text, the
head of a reply and its chunks, one for each event, as uvicorn writes them. It speaks of what is asked of it in the last
words of a chat, which every relay hands on: `tokens=100 interval=20 size=0` asks for 100 tokens, one each 20 ms after
the first (0: as fast as they are taken), padded with that many characters. A token is

    00042@0000000012345678901

its number, and when it was handed to the transport in nanoseconds of the monotonic clock, which all processes of a
machine share: so whoever gets it knows how long it was on its way. Streams of one interval are spread evenly over it by
whole milliseconds, as libuv's timers allow no less. A connection that does not take more gets its tokens later. A chat
that is not streamed gets one and the same recorded answer.
"""

import asyncio
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._wire import LAST_CHUNK, Requests, chunk, listening_options, serve

MODEL = "demo:latest"
_RECORDING = Path(__file__).parents[1] / "tests" / "recordings" / "demo.json"
_TEXT = re.compile(rb'(?<="content":")[^"]*')
_STREAMED = re.compile(rb'"stream": *true')
_ID = re.compile(rb'(?<="id":"chatcmpl-)[^"]+')
_TICK_S = 0.001
_AT_ONCE = 16
"""Tokens of one write where they come in bursts: some 4 KiB."""
_CARD = {"id": MODEL, "object": "model", "created": 0, "owned_by": "vllm", "root": MODEL, "max_model_len": 1 << 20}
_REPLIES = {
    b"/health": b"",
    b"/version": b'{"version":"0.32.0"}',
    b"/v1/models": json.dumps({"object": "list", "data": [_CARD]}).encode(),
    b"/metrics": b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0.0\n",
}


@dataclass(frozen=True)
class Plan:
    """What an answer is to be. interval: ms between tokens. size: characters that each is padded with."""

    tokens: int
    interval: int = 0
    size: int = 0

    def __str__(self) -> str:
        return f"tokens={self.tokens} interval={self.interval} size={self.size}"

    @classmethod
    def find(cls, body: bytes) -> "Plan":
        """What a request asks for. Raises ValueError where it asks for nothing."""
        if (found := re.search(rb"tokens=(\d+) interval=(\d+) size=(\d+)", body)) is None:
            raise ValueError("the chat does not say what is asked for: " + str(cls(100, 20, 0)))
        return cls(*map(int, found.groups()))


@dataclass(frozen=True)
class Script:
    """The events of one recorded answer: the first, one with text, and those behind the text."""

    role: bytes
    token: bytes
    finish: bytes
    usage: bytes
    done: bytes

    @classmethod
    def read(cls) -> "Script":
        for exchange in json.loads(_RECORDING.read_text()):
            events = [event.encode() for event in exchange["chunks"]]
            if len(events) >= 5 and b'"role"' in events[0] and events[-2].find(b'"choices":[]') > 0:
                found = cls(events[0], events[1], *events[-3:])
                if b'"delta":{"content":"' in found.token and b'"usage"' not in found.token + found.role:
                    return found
        raise LookupError(f"no plain answer in {_RECORDING}")

    def named(self, number: int) -> "Script":
        """With an id of its own, of the same length."""
        events = (self.role, self.token, self.finish, self.usage, self.done)
        return Script(*(_ID.sub(b"%016x" % number, event) for event in events))

    def tokens(self, size: int) -> bytes:
        """Where a token's number and its time go: its event in its chunk."""
        text = b"%05d@%019d " + b"x" * size
        event = _TEXT.sub(text, self.token)
        return b"%x\r\n" % len(event % (0, 0)) + event + b"\r\n"


def read_whole() -> bytes:
    """The recorded answer of a chat that was not streamed."""
    for exchange in json.loads(_RECORDING.read_text()):
        if exchange["path"] == "/v1/chat/completions" and '"object":"chat.completion"' in exchange["chunks"][0]:
            return "".join(exchange["chunks"]).encode()
    raise LookupError(f"no whole answer in {_RECORDING}")


class Answer:
    """One answer, and how much of it was given."""

    def __init__(self, script: Script, plan: Plan, *, usage: bool) -> None:
        self._token = script.tokens(plan.size)
        self._role = chunk(script.role)
        last = [script.finish, script.usage, script.done] if usage else [script.finish, script.done]
        self._end = b"".join(map(chunk, last)) + LAST_CHUNK
        self._at = 0
        self._tokens = plan.tokens

    @property
    def ended(self) -> bool:
        return self._at >= self._tokens

    def open(self) -> bytes:
        """The head, the role, and the first token."""
        date = formatdate(usegmt=True).encode()
        head = b"HTTP/1.1 200 OK\r\ndate: %b\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        return head % date + b"transfer-encoding: chunked\r\n\r\n" + self._role + self.more(1)

    def more(self, count: int) -> bytes:
        """That many tokens more, and what ends the answer behind the last of them."""
        now, token = time.monotonic_ns(), self._token
        first, self._at = self._at, min(self._at + count, self._tokens)
        data = b"".join([token % (number, now) for number in range(first, self._at)])
        return data + self._end if self.ended else data


class Wheel:
    """Gives each of its connections a turn every so many milliseconds."""

    def __init__(self, interval: int) -> None:
        self._turns: list[list[Connection]] = [[] for _ in range(interval)]
        self._next = 0
        self._due = 0.0
        self._running = False

    def join(self, connection: "Connection") -> None:
        min(self._turns, key=len).append(connection)
        if not self._running:
            self._running = True
            self._due = asyncio.get_running_loop().time() + _TICK_S
            self._tick()

    def leave(self, connection: "Connection") -> None:
        for turn in self._turns:
            if connection in turn:
                turn.remove(connection)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._due <= now:
            for connection in self._turns[self._next].copy():
                connection.take_turn()
            self._next = (self._next + 1) % len(self._turns)
            self._due += _TICK_S
        self._running = any(self._turns)
        if self._running:
            loop.call_at(self._due, self._tick)


class Connection(asyncio.Protocol):
    """One of a client's, with one answer at a time."""

    _script = Script.read()
    _whole = read_whole()
    _numbers: Iterator[int] = itertools.count(1)
    _wheels: dict[int, Wheel] = {}  # noqa: RUF012 - shared by all

    def __init__(self) -> None:
        self._requests = Requests()
        self._transport: asyncio.Transport
        self._answer: Answer | None = None
        self._wheel: Wheel | None = None
        self._paused = False
        self._owed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._end()

    def data_received(self, data: bytes) -> None:
        for head, body in self._requests.feed(data):
            method, path, _ = head.split(b" ", 2)
            if (method, path) == (b"POST", b"/v1/chat/completions"):
                self._chat(body)
            else:
                self._reply(200 if path in _REPLIES else 404, _REPLIES.get(path, b'{"detail":"Not Found"}'))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._give()

    def take_turn(self) -> None:
        self._owed += 1
        self._give()

    def _give(self) -> None:
        """The tokens that are owed, a write's worth in each turn of the loop, as long as they are taken."""
        if self._answer is None or self._paused or not self._owed:
            return
        count = min(self._owed, _AT_ONCE)
        self._owed -= count
        self._transport.write(self._answer.more(count))
        if self._answer.ended:
            self._end()
        elif self._owed and not self._paused:
            asyncio.get_running_loop().call_soon(self._give)

    def _chat(self, body: bytes) -> None:
        try:
            plan = Plan.find(body)
        except ValueError as error:
            self._reply(400, json.dumps({"error": {"message": str(error)}}).encode())
            return
        if _STREAMED.search(body) is None:
            self._reply(200, self._whole)
            return
        script = self._script.named(next(self._numbers))
        self._answer = Answer(script, plan, usage=b'"include_usage"' in body)
        self._transport.write(self._answer.open())
        if self._answer.ended:
            self._end()
        elif plan.interval:
            self._wheel = self._wheels.setdefault(plan.interval, Wheel(plan.interval))
            self._wheel.join(self)
        else:
            self._owed = plan.tokens
            self._give()

    def _end(self) -> None:
        self._answer, self._owed = None, 0
        if self._wheel is not None:
            self._wheel.leave(self)
            self._wheel = None

    def _reply(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} -\r\nserver: uvicorn\r\ncontent-type: application/json\r\n"
        self._transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


if __name__ == "__main__":
    arguments = listening_options(__doc__).parse_args()
    serve(Connection, arguments.unix, arguments.port)
