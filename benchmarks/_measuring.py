"""What the benchmarks of start-up share: asking a gateway, timing what it does, telling it in a table and in a file."""

import argparse
import asyncio
import json
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from vllama.demo.dialogues import by_name
from vllama.engine.engine import WARM_UP_PROMPT

PROMPT = [{"role": "user", "content": WARM_UP_PROMPT}]
"""Long enough to be an engine's very first: see there."""
ENDLESS = {"messages": list(by_name("song").messages), "think": False, "options": {"temperature": 0}}
LOAD_S = 600.0
"""Deadline of whatever may start an engine."""
_POLL_S = 0.1
"""A gateway looks at the memory of all its processes when it is asked for its engines."""


class LateError(Exception):
    """Something did not happen in time."""


def client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=LOAD_S, limits=httpx.Limits(max_connections=None))


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> float:
    """Poll until the condition holds; returns the seconds it took. Raises LateError."""
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > seconds:
            raise LateError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - began


async def first_word(http: httpx.AsyncClient, model: str) -> float:
    """Seconds from asking until the first word of an answer, its load included. Reads the answer to its end."""
    began, first = time.monotonic(), 0.0
    body = {"model": model, "messages": PROMPT, "think": False, "options": {"temperature": 0, "num_predict": 16}}
    async with http.stream("POST", "/api/chat", json=body) as reply:
        if reply.status_code != 200:
            raise RuntimeError((await reply.aread()).decode())
        async for line in reply.aiter_lines():
            part = json.loads(line)
            if "error" in part:
                raise RuntimeError(part["error"])
            if not first and part["message"]["content"]:
                first = time.monotonic() - began
    return first


async def load(http: httpx.AsyncClient, model: str) -> float:
    """Seconds until a model that is not loaded is ready."""
    began = time.monotonic()
    reply = await http.post("/api/generate", json={"model": model})
    if reply.status_code != 200:
        raise RuntimeError(reply.text)
    return time.monotonic() - began


async def unload(http: httpx.AsyncClient, model: str) -> None:
    """Returns when nothing of its engine is left."""
    await http.post("/api/generate", json={"model": model, "keep_alive": 0})

    async def is_gone() -> bool:
        listed = (await http.get("/api/ps")).json()["models"]
        named = [entry for entry in (await engines(http))["engines"] if f"{model}:latest" in entry["models"]]
        return all(entry["name"] != f"{model}:latest" for entry in listed) and not any(
            entry["state"] != "failed" for entry in named
        )

    await until(is_gone, 60.0, f"{model} is unloaded")


async def engines(http: httpx.AsyncClient) -> dict[str, Any]:
    """What the gateway tells of its engines and its standby; an older one has nothing to tell."""
    reply = await http.get("/api/engines")
    if reply.status_code == 404:
        return {"engines": [], "standby": {"state": "off"}}
    found: dict[str, Any] = reply.raise_for_status().json()
    return found


async def until_parked(http: httpx.AsyncClient, seconds: float = 300.0) -> None:
    """Wait for the standby. Raises LateError with the state that it is in instead."""
    state: dict[str, Any] = {}

    async def is_parked() -> bool:
        state.update((await engines(http))["standby"])
        if state["state"] in ("off", "failed"):
            raise LateError(f"there is no standby: {state}")
        return bool(state["state"] == "parked")

    await until(is_parked, seconds, "the standby is parked")


def parser(text: str) -> argparse.ArgumentParser:
    """Of a benchmark's command line. Whoever ends the benchmark by a signal ends what it has started."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the first is ignored by what a shell starts in the background
        signal.signal(number, signal.default_int_handler)
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, help="file to write the numbers to")
    return found


def seconds(values: Sequence[float]) -> str:
    """The median, and the range beside it."""
    if not values:
        return "-"
    return f"{statistics.median(values):.1f} s ({min(values):.1f} to {max(values):.1f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """In Markdown, as it is put into documents."""
    cells = [[str(cell) for cell in row] for row in (head, ["---"] * len(head), *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells)


def write(path: Path | None, found: Mapping[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n")
