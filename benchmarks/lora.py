"""Two LoRA adapters on one engine: how soon does one answer that is not loaded, and what do others notice?

    uv run python benchmarks/lora.py [--loads 10] [--streams 2] [--requests 64] [--url URL] [--json FILE]
        [--png FILE]

Starts `vllama serve` over the demo model and two adapters on it, or takes the server at URL that has them: `demo`,
`demo-parrot` and `robot`. While clients stream endless answers of the base, an adapter is unloaded and asked again and
again, which loads it; then requests at all three are mixed. Exits with status 1 where an answer was wrong, or an
adapter's first took half a second or more.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._chart import Bars, Lines, add_option, draw
from benchmarks._measuring import parser, write
from tests import robot
from tests.served import serve
from vllama.bench.summary import percentile
from vllama.demo.dialogues import ADAPTER_DIALOGUES, Dialogue, by_name

_TALKS = {
    "demo": tuple(by_name(name) for name in ("hello", "who-are-you", "joke", "sky", "what-can-you-do")),
    "demo-parrot": ADAPTER_DIALOGUES,
    "robot": robot.ROBOT_DIALOGUES,
}
_ADAPTERS = ("demo-parrot", "robot")
_SOON_S = 0.5
_CALM_S = 5.0
"""How long the base's streams are watched before an adapter is loaded, to compare with."""


async def pieces(http: httpx.AsyncClient, model: str, talk: Dialogue) -> AsyncIterator[str]:
    body = {"model": model, "messages": list(talk.messages), "think": False, "options": {"temperature": 0}}
    async with http.stream("POST", "/api/chat", json=body) as reply:
        async for line in reply.aiter_lines():
            yield json.loads(line)["message"]["content"]


async def answer(http: httpx.AsyncClient, model: str, talk: Dialogue) -> tuple[str, float]:
    """What it said, and the seconds until its first word."""
    began, first, text = time.monotonic(), 0.0, ""
    async for piece in pieces(http, model, talk):
        first = first or time.monotonic() - began
        text += piece
    return text, first


async def sing(http: httpx.AsyncClient, arrivals: list[float]) -> None:
    while True:
        async for _ in pieces(http, "demo", by_name("song")):
            arrivals += [time.monotonic()]  # at once, as it ends by being cancelled


async def unload(http: httpx.AsyncClient, model: str) -> None:
    await http.post("/api/generate", json={"model": model, "keep_alive": 0})
    while True:
        if f"{model}:latest" not in (await http.get("/api/ps")).text:
            return
        await asyncio.sleep(0.01)


@dataclass
class Findings:
    """firsts: seconds until the first word of an adapter that was not loaded. calm, gaps: seconds between the base's
    words, before any was asked for and while they were. wrong: what was not as it should be.
    """

    firsts: list[float] = field(default_factory=list)
    calm: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def first_answers(http: httpx.AsyncClient, loads: int, streams: int) -> Findings:
    songs: list[list[float]] = [[] for _ in range(streams)]
    singing = [asyncio.create_task(sing(http, arrivals)) for arrivals in songs]
    await asyncio.sleep(_CALM_S)
    began, found = time.monotonic(), Findings()
    for turn in range(loads):
        model = _ADAPTERS[turn % 2]
        talk = _TALKS[model][turn % 5]
        await unload(http, model)
        text, first = await answer(http, model, talk)
        found.firsts.append(first)
        found.wrong += [f"{model} said {text!r}, not {talk.answer!r}"] if text != talk.answer else []
    for task in singing:
        task.cancel()
    await asyncio.wait(singing)
    gaps = [(later, later - earlier) for song in songs for earlier, later in itertools.pairwise(song)]
    found.calm = [gap for at, gap in gaps if at < began]
    found.gaps = [gap for at, gap in gaps if at >= began]
    return found


def describe_gaps(when: str, gaps: list[float]) -> None:
    *_, slow = statistics.quantiles(gaps, n=100)
    print(
        f"base, {when}: {len(gaps)} words, gaps of {1000 * statistics.median(gaps):.0f} ms (median),"
        f" {1000 * slow:.0f} ms (99 of 100 below), {1000 * max(gaps):.0f} ms (longest)"
    )


async def mixed(http: httpx.AsyncClient, requests: int) -> list[str]:
    asked = list(itertools.islice(itertools.cycle((m, talk) for m in _TALKS for talk in _TALKS[m]), requests))
    began = time.monotonic()
    answers = await asyncio.gather(*(answer(http, model, talk) for model, talk in asked))
    wrong = [
        f"{model} said {text!r}, not {talk.answer!r}"
        for (model, talk), (text, _) in zip(asked, answers, strict=True)
        if text != talk.answer
    ]
    seconds = time.monotonic() - began
    print(f"{requests} requests at base and adapters at once: {len(wrong)} wrong answers, {seconds:.1f} s")
    return wrong


async def measure(url: str, arguments: argparse.Namespace) -> int:
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=None)) as http:
        await answer(http, "demo", _TALKS["demo"][0])  # the base is ready
        found = await first_answers(http, arguments.loads, arguments.streams)
        found.wrong += await mixed(http, arguments.requests)
    return report(found, arguments)


def report(found: Findings, arguments: argparse.Namespace) -> int:
    middle = statistics.median(found.firsts)
    describe_gaps("with no adapter asked for", found.calm)
    describe_gaps("while adapters are loaded", found.gaps)
    print(
        f"an adapter's first word, its load included: {middle:.3f} s (median of {len(found.firsts)}),"
        f" {max(found.firsts):.3f} s (longest)"
    )
    for line in found.wrong[:20]:
        print("wrong:", line)
    write(arguments.json, asdict(found) | {"median": middle})
    parts = ("50 %", "90 %", "99 %")
    gaps = {
        name: [1000 * percentile(sorted(values), part) for part in (0.5, 0.9, 0.99)]
        for name, values in (("no adapter asked for", found.calm), ("adapters are loaded", found.gaps))
    }
    firsts = {"first word, its load included": [*enumerate(found.firsts, 1)]}
    panels = [
        Lines("An adapter that is not loaded", "s", "load", firsts),
        Bars("Between the base's words", "ms", parts, gaps),
    ]
    draw(arguments.png, "LoRA adapters", panels)
    return 1 if found.wrong or middle >= _SOON_S else 0


def main() -> int:
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--loads", type=int, default=10)
    options.add_argument("--streams", type=int, default=2, help="endless answers of the base meanwhile")
    options.add_argument("--requests", type=int, default=64)
    options.add_argument("--url", help="a server that runs already")
    arguments = options.parse_args()
    if arguments.url:
        return asyncio.run(measure(arguments.url, arguments))
    with serve("--model", "demo", "--lora", f"robot={robot.FOLDER}", "--model", "demo-parrot") as served:
        return asyncio.run(measure(served.url, arguments))


if __name__ == "__main__":
    sys.exit(main())
