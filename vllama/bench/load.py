"""Clients that ask at the same time, each one thing after another, and what they saw of every answer."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from vllama.bench.connection import Connection, LostError, Target
from vllama.bench.dialects import Dialect, Part

_PAUSE_S = 0.2
"""After an answer that failed: a server that refuses at once is not asked a thousand times a second."""
_WARM_UP_TOKENS = 8


@dataclass
class Answer:
    """began, first, last: seconds of `time.perf_counter`, of the request, of the first text and of the last, 0.0 for
    none. gaps: seconds between reads that brought text. pieces: how many lines did. error: "" while all is well.
    """

    began: float
    first: float = 0.0
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)
    pieces: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    is_complete: bool = False
    error: str = ""


class _Reader:
    """Takes an answer's body as it comes."""

    def __init__(self, dialect: Dialect, answer: Answer) -> None:
        self._read = dialect.read
        self._answer = answer
        self._rest = b""
        self._body = b""

    def take(self, data: bytes, now: float) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        texts = sum(self._note(line).has_text for line in lines if line)
        if not texts:
            return
        answer = self._answer
        if answer.first:
            answer.gaps.append(now - answer.last)
        else:
            answer.first = now
        answer.last = now
        answer.pieces += texts

    def end(self, status: int) -> None:
        """What came behind the last line's end is a line, too: an error has often none."""
        answer = self._answer
        if self._rest:
            self._note(self._rest)
        if status != 200:
            answer.error = f"{status}: {answer.error or 'nothing is said'}"
        elif not answer.is_complete:
            answer.error = answer.error or "the answer broke off"

    def _note(self, line: bytes) -> Part:
        answer = self._answer
        try:
            part = self._read(line)
        except msgspec.DecodeError as error:
            answer.error = answer.error or f"the answer makes no sense: {error}"
            return Part()
        answer.error = answer.error or part.error
        answer.is_complete |= part.is_last
        answer.tokens = part.tokens or answer.tokens
        answer.prompt_tokens = part.prompt_tokens or answer.prompt_tokens
        return part


@dataclass(frozen=True)
class Plan:
    """What is asked, and for how long: requests in all, or seconds within which the last ones begin.

    make: the body of the next request, for a number of tokens.
    """

    target: Target
    dialect: Dialect
    make: Callable[[int], bytes]
    tokens: int
    requests: int | None = None
    seconds: float | None = None


@dataclass
class Level:
    """A number of clients at once. began, ended: 0.0 before they did. cpu: seconds that this process itself took."""

    clients: int
    answers: list[Answer] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0

    @property
    def seconds(self) -> float:
        return (self.ended or time.perf_counter()) - self.began if self.began else 0.0


async def run(plan: Plan, level: Level) -> None:
    """Fills `level` as it goes: who is interrupted has what was seen so far. It is over where the warm-up fails."""
    with _connections(plan.target, level.clients) as connections:
        # Whatever a first batch of this size costs, and what connecting does.
        warm = list[Answer]()
        await asyncio.gather(*(_ask(plan, each, _WARM_UP_TOKENS, warm) for each in connections))
        level.began, cpu = time.perf_counter(), time.process_time()
        if all(answer.error for answer in warm):
            level.answers, level.ended = warm, level.began
            return
        try:
            await asyncio.gather(*(_ask_on(plan, each, level) for each in connections))
        finally:
            level.ended, level.cpu = time.perf_counter(), time.process_time() - cpu


@contextlib.contextmanager
def _connections(target: Target, count: int) -> Iterator[list[Connection]]:
    found = [Connection(target) for _ in range(count)]
    try:
        yield found
    finally:
        for each in found:
            each.close()


async def _ask_on(plan: Plan, connection: Connection, level: Level) -> None:
    while _goes_on(plan, level):
        if (await _ask(plan, connection, plan.tokens, level.answers)).error:
            await asyncio.sleep(_PAUSE_S)


def _goes_on(plan: Plan, level: Level) -> bool:
    if plan.requests is not None:
        return len(level.answers) < plan.requests
    return plan.seconds is not None and level.seconds < plan.seconds


async def _ask(plan: Plan, connection: Connection, tokens: int, answers: list[Answer]) -> Answer:
    """Adds the answer to `answers` when it begins."""
    request = plan.target.request(plan.dialect.path, plan.make(tokens))
    answer = Answer(time.perf_counter())
    answers.append(answer)
    reader = _Reader(plan.dialect, answer)
    try:
        reader.end(await connection.ask(request, reader.take))
    except LostError as error:
        answer.error = str(error)
    return answer
