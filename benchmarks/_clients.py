"""Clients that stream in three dialects, and what each of their requests came to."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import httpx

from benchmarks._measuring import ENDLESS

_HANG_S = 300.0
_PAUSE_S = 0.2
"""Between a failure and the next attempt."""
_TOKENS = 32


class Fate(StrEnum):
    """What became of one request. REFUSED and CUT are nobody's fault while the gateway itself is being killed."""

    COMPLETE = "complete"
    RETRIED = "retried"  # complete, though its engine was ended before anything of it had come
    ERROR = "clean error"
    REFUSED = "refused"
    CUT = "cut"
    BROKEN = "BROKEN"


@dataclass(frozen=True)
class Request:
    """began, first, ended: seconds of the monotonic clock; first: of the first byte, `ended` where there was none."""

    client: int
    path: str
    began: float
    first: float
    ended: float
    fate: Fate
    detail: str = ""

    def fate_at(self, killed: float) -> Fate:
        """With regard to the end of its engine."""
        waited = self.began < killed < self.first
        return Fate.RETRIED if self.fate is Fate.COMPLETE and waited else self.fate


def _ollama(lines: Sequence[str]) -> tuple[bool, str]:
    """Whether an answer is whole, and the error that it has instead."""
    parts = [json.loads(line) for line in lines]
    return bool(parts and parts[-1].get("done")), str(parts[-1].get("error", "")) if parts else ""


def _openai(lines: Sequence[str]) -> tuple[bool, str]:
    data = _events(lines)
    parts = [json.loads(text) for text in data if text != "[DONE]"]
    errors = [part["error"]["message"] for part in parts if "error" in part]
    finished = any(choice.get("finish_reason") for part in parts for choice in part.get("choices", ()))
    return finished and data[-1:] == ["[DONE]"] and not errors, "".join(errors)


def _anthropic(lines: Sequence[str]) -> tuple[bool, str]:
    parts = [json.loads(text) for text in _events(lines)]
    errors = [part["error"]["message"] for part in parts if part["type"] == "error"]
    return bool(parts and parts[-1]["type"] == "message_stop"), "".join(errors)


def _events(lines: Sequence[str]) -> list[str]:
    return [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]


_SONG: dict[str, Any] = {"model": "demo", "messages": ENDLESS["messages"]}
DIALECTS: dict[str, tuple[dict[str, Any], Callable[[Sequence[str]], tuple[bool, str]]]] = {
    "/api/chat": ({**ENDLESS, "model": "demo", "options": {"temperature": 0, "num_predict": _TOKENS}}, _ollama),
    "/v1/chat/completions": (
        {**_SONG, "stream": True, "max_tokens": _TOKENS, "temperature": 0, "reasoning_effort": "none"},
        _openai,
    ),
    "/v1/messages": ({**_SONG, "stream": True, "max_tokens": _TOKENS, "temperature": 0}, _anthropic),
}


def judge(path: str, status: int, lines: Sequence[str]) -> tuple[Fate, str]:
    """What an answer came to that ended without the connection being lost."""
    try:
        if status != 200:
            error = json.loads("\n".join(lines))["error"]
            return Fate.ERROR, f"{status}: {error if isinstance(error, str) else error['message']}"
        whole, said = DIALECTS[path][1](lines)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Fate.BROKEN, f"{status}, garbage: {lines[-1:]}"
    if said:
        return Fate.ERROR, said
    return (Fate.COMPLETE, "") if whole else (Fate.BROKEN, f"ended without an error: {lines[-1:]}")


class Clients:
    """Ask one thing after another until they are closed.

    done: every request that ended, in the order of its end. streaming: the clients that have a part of an answer.
    """

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self.done: list[Request] = []
        self.streaming: set[int] = set()
        self.count = count
        paths = itertools.cycle(DIALECTS)
        self._tasks = [asyncio.create_task(self._ask_on(number, next(paths))) for number in range(count)]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def check(self) -> None:
        """Raise what went wrong in the clients themselves."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _ask_on(self, number: int, path: str) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=_HANG_S) as http:
            while True:
                request = await _ask(http, number, path, partial(self.streaming.add, number))
                self.streaming.discard(number)
                self.done.append(request)
                if request.fate is not Fate.COMPLETE:
                    await asyncio.sleep(_PAUSE_S)


async def _ask(http: httpx.AsyncClient, number: int, path: str, on_first: Callable[[], None]) -> Request:
    began, first, status, lines = time.monotonic(), 0.0, 0, list[str]()
    try:
        async with asyncio.timeout(_HANG_S), http.stream("POST", path, json=DIALECTS[path][0]) as reply:
            status = reply.status_code
            async for line in reply.aiter_lines():
                if not first:
                    first = time.monotonic()
                    on_first()
                lines += [line] if line else []
        fate, detail = judge(path, status, lines)
    except httpx.ConnectError as error:
        fate, detail = Fate.REFUSED, repr(error)
    except (httpx.TimeoutException, TimeoutError):
        fate, detail = Fate.BROKEN, f"nothing for {_HANG_S:.0f} s"
    except httpx.TransportError as error:
        fate, detail = Fate.CUT, f"{error!r} after {len(lines)} lines"
    ended = time.monotonic()
    return Request(number, path, began, first or ended, ended, fate, detail)
