"""Clients of one relay, in a process of their own: they ask on and on, and see to it that every token arrives in order.

    echo SPEC | python -m benchmarks._load

SPEC is the JSON of a `Spec`; printed is that of a `Found`. Nothing is decoded: the tokens of `_synthetic` are told from
whatever is around them. CPU time is that of the relay, from the kernel's count for each of its threads, between the
beginning and the end of the stretch that is measured, in which all clients are at it.
"""

import asyncio
import gc
import json
import re
import statistics
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._usage import Usage, usage
from benchmarks._wire import LAST_CHUNK, post

_TOKEN = re.compile(rb"(\d{5})@(\d{19}) ")
_NUMBERS = [b"%05d" % number for number in range(100_000)]
_NS = 1e9
_SILENCE_S = 30.0
"""Longest time that is waited for the first token of all clients."""


@dataclass(frozen=True)
class Spec:
    """What is asked of whom.

    address: `unix:PATH` or `HOST:PORT`. tokens: of each answer. ramp: seconds over which the clients start. seconds:
    what is measured then. requests: end after so many instead, if given. timed: whether each token's delay is measured,
    which takes a while for each. pid: the relay's, 0 where there is none.
    """

    address: str
    path: str
    body: str
    tokens: int
    connections: int
    ramp: float = 0.5
    seconds: float = 2.0
    requests: int = 0
    timed: bool = True
    pid: int = 0


@dataclass
class Found:
    """delays: ms from the engine's write to the client's read. load: CPU seconds a second of the clients themselves.

    firsts: ms from a request to its first token, of the requests that began in the stretch measured.
    """

    seconds: float = 0.0
    tokens: int = 0
    answers: int = 0
    cpu: float = 0.0
    resident: int = 0
    load: float = 0.0
    delays: dict[str, float] = field(default_factory=dict)
    firsts: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Client(asyncio.Protocol):
    """Asks one thing after another on one connection.

    delays: ns of each token since it was last cleared. firsts: when a request was sent, and the ns until its first
    token. begun, ended: done with the first token of all, and with the connection.
    """

    def __init__(self, request: bytes, tokens: int, *, timed: bool) -> None:
        self._request = request
        self._expected = tokens
        self._timed = timed
        self._rest = self._tail = b""
        self._begun = False
        self._asked = 0
        self._at = 0
        self._leaving = False
        self.transport: asyncio.Transport
        self.tokens = 0
        self.answers = 0
        self.most = sys.maxsize
        self.received = 0
        self.delays = array("q")
        self.firsts: list[tuple[int, int]] = []
        self.failure = ""
        self.begun = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of it
        self._ask()

    def _ask(self) -> None:
        self._at = 0
        self._rest = self._tail = b""
        self._begun = False
        self._asked = time.monotonic_ns()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self.received += len(data)
        ends = (self._tail + data[-5:] if len(data) < 5 else data).endswith(LAST_CHUNK)
        self._tail = data[-5:]
        data = self._rest + data
        whole = data.rfind(b"\n") + 1
        self._rest = data[whole:]
        if found := _TOKEN.findall(data, 0, whole):
            self._take(found, now)
        begun, self._begun = self._begun, True
        if ends or not (begun or data.startswith(b"HTTP/1.1 200 ")):
            self._complete(data)

    def _take(self, found: Sequence[tuple[bytes, bytes]], now: int) -> None:
        if not self._at:
            self.firsts.append((self._asked, now - self._asked))
            if not self.begun.done():
                self.begun.set_result(None)
        last = self._at + len(found)
        if [number for number, _ in found] != _NUMBERS[self._at : last]:
            self._fail(f"tokens {found[0][0]!r} to {found[-1][0]!r} where {self._at} to {last - 1} were due")
        self._at = last
        self.tokens += len(found)
        if self._timed:
            self.delays.extend([now - int(sent) for _, sent in found])

    def _complete(self, data: bytes) -> None:
        if self._at != self._expected:
            self._fail(f"{self._at} of {self._expected} tokens: {data[-600:].decode(errors='replace')}")
            return
        self.answers += 1
        if self.answers < self.most:
            self._ask()
        else:
            self.leave()

    def _fail(self, why: str) -> None:
        self.failure = self.failure or why
        self.leave()

    def leave(self) -> None:
        self._leaving = True
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._leaving:
            self.failure = f"the connection was lost after {self._at} of {self._expected} tokens ({exc})"
        for future in (self.begun, self.ended):
            if not future.done():
                future.set_result(None)


async def connect(spec: Spec) -> Client:
    loop = asyncio.get_running_loop()
    client = Client(post(spec.path, spec.body.encode()), spec.tokens, timed=spec.timed)
    client.most = spec.requests or client.most
    if spec.address.startswith("unix:"):
        await loop.create_unix_connection(lambda: client, spec.address.removeprefix("unix:"))
    else:
        host, _, port = spec.address.rpartition(":")
        await loop.create_connection(lambda: client, host, int(port))
    return client


class Mark:
    """The beginning of what is measured."""

    def __init__(self, spec: Spec, clients: Sequence[Client]) -> None:
        self.at = time.monotonic_ns()
        self.usage = usage(spec.pid)
        self.own = time.process_time()
        self.tokens = sum(client.tokens for client in clients)
        self.answers = sum(client.answers for client in clients)
        for client in clients:
            del client.delays[:]


async def run(spec: Spec) -> Found:
    clients: list[Client] = []
    mark = Mark(spec, clients)
    for _ in range(spec.connections):
        clients.append(await connect(spec))
        await asyncio.sleep(spec.ramp / spec.connections)
    if not spec.requests:
        await asyncio.wait([client.begun for client in clients], timeout=_SILENCE_S)
        mark = Mark(spec, clients)
    await _measured(spec, clients)
    found = _found(mark, clients, usage(spec.pid))
    for client in clients:
        client.leave()
    return found


async def _measured(spec: Spec, clients: Sequence[Client]) -> None:
    """Until the time is over, or all that was to be asked is answered."""
    if not spec.requests:
        await asyncio.sleep(spec.seconds)
        return
    _, late = await asyncio.wait([client.ended for client in clients], timeout=_SILENCE_S + spec.requests)
    for client in clients:
        client.failure = client.failure or (f"{client.answers} answers only" if client.ended in late else "")


def _found(began: Mark, clients: Sequence[Client], spent: Usage) -> Found:
    seconds = (time.monotonic_ns() - began.at) / _NS
    firsts = [first for client in clients for first in client.firsts]
    return Found(
        seconds=seconds,
        tokens=sum(client.tokens for client in clients) - began.tokens,
        answers=sum(client.answers for client in clients) - began.answers,
        cpu=spent.cpu - began.usage.cpu,
        resident=spent.resident,
        load=(time.process_time() - began.own) / seconds,
        delays=percentiles([delay for client in clients for delay in client.delays]),
        firsts=[took / 1e6 for asked, took in firsts if asked >= began.at],
        failures=[client.failure for client in clients if client.failure],
    )


def percentiles(values: Sequence[int]) -> dict[str, float]:
    """Of nanoseconds, in ms."""
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=1000, method="inclusive")
    return {"p50": cuts[499] / 1e6, "p90": cuts[899] / 1e6, "p99": cuts[989] / 1e6, "max": max(values) / 1e6}


if __name__ == "__main__":
    gc.disable()  # a pause would be measured as the relay's
    print(json.dumps(asdict(uvloop.run(run(Spec(**json.load(sys.stdin)))))))
