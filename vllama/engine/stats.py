"""What engines say of themselves while they run: asked only when somebody looks, and not more often than is of use."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vllama.engine.client import EngineClient
from vllama.engine.process import resident
from vllama.errors import EngineError

T = TypeVar("T")

_USAGE_S = 1.0
_MEMORY_S = 5.0
"""The kernel walks through all pages of a process to count them."""
_TIMEOUT_S = 1.0
_LONGEST_GAP_S = 10.0
"""Between two looks, for their difference to tell how fast tokens come now."""
_FORGOTTEN_S = 60.0
_RUNNING, _WAITING, _TOKENS = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:generation_tokens_total"


@dataclass(frozen=True)
class Usage:
    """Requests in an engine, and the tokens that it generates per second, None where nobody looked just before."""

    running: int
    waiting: int
    tokens_per_second: float | None


class Stats:
    """Remembers what it was told: those who look at the same time ask once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[EngineClient | int, _Fresh[Any]] = {}

    async def usage(self, client: EngineClient) -> Usage | None:
        """None where the engine does not answer at once."""
        known = self._known.get(client) or self._note(client, _USAGE_S, _Meter(client, self._clock).read)
        usage: Usage | None = await known.get()
        return usage

    async def memory(self, pid: int, measure: Callable[[], int] | None = None) -> int:
        """Bytes of RAM that the session of a process holds, as `measure` says, which is called in a thread."""
        work = measure or (lambda: resident(pid))
        known = self._known.get(pid) or self._note(pid, _MEMORY_S, lambda: asyncio.to_thread(work))
        held: int = await known.get()
        return held

    def _note(self, key: EngineClient | int, seconds: float, ask: Callable[[], Awaitable[Any]]) -> "_Fresh[Any]":
        self._known = {other: fresh for other, fresh in self._known.items() if fresh.age < _FORGOTTEN_S}
        self._known[key] = _Fresh(seconds, ask, self._clock)
        return self._known[key]


class _Fresh(Generic[T]):
    """A value that is asked for anew where it is older than some seconds."""

    def __init__(self, seconds: float, ask: Callable[[], Awaitable[T]], clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._ask = ask
        self._clock = clock
        self._asked = clock()
        self._values: list[T] = []
        self._asking = asyncio.Lock()

    @property
    def age(self) -> float:
        return self._clock() - self._asked

    async def get(self) -> T:
        async with self._asking:
            if not self._values or self.age >= self._seconds:
                self._values = [await self._ask()]
                self._asked = self._clock()
            return self._values[0]


class _Meter:
    """Reads an engine's metrics, and what they have changed by."""

    def __init__(self, client: EngineClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._read_at = -math.inf
        self._tokens = 0.0

    async def read(self) -> Usage | None:
        try:
            text = await self._client.get("/metrics", seconds=_TIMEOUT_S)
        except EngineError:
            return None
        sums = sums_of(text.decode(errors="replace"), (_RUNNING, _WAITING, _TOKENS))
        return Usage(int(sums[_RUNNING]), int(sums[_WAITING]), self._rate(sums[_TOKENS]))

    def _rate(self, tokens: float) -> float | None:
        before, read_at, self._tokens, self._read_at = self._tokens, self._read_at, tokens, self._clock()
        gap = self._read_at - read_at
        return round(max(0.0, tokens - before) / gap, 1) if 0 < gap <= _LONGEST_GAP_S else None


def sums_of(metrics: str, names: tuple[str, ...]) -> dict[str, float]:
    """The values of some of Prometheus's metrics as text, each summed over its labels, 0 where there is none."""
    sums = dict.fromkeys(names, 0.0)
    for line in metrics.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in sums:
            sums[name] += float(line.rpartition(" ")[2])
    return sums
