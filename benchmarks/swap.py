"""Five models, room for one engine: what do random requests cost in loads, and is every answer right?

    uv run python benchmarks/swap.py [--requests 200] [--clients 16] [--engines 1] [--json FILE] [--png FILE]

Starts `vllama serve` over the demo model, a base model (the demo without its chat template), the embedding model and
two LoRA adapters; then clients that each ask one random model after another, waiting for each answer. Meanwhile
`/api/ps` is read all the time: a model that is answering must be in it. Exits with status 1 where anything was wrong.
"""

import argparse
import asyncio
import itertools
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._chart import Bars, add_option, draw
from benchmarks._measuring import parser, table, write
from tests import robot
from tests.served import serve
from vllama import demo
from vllama.bench.summary import percentile
from vllama.demo.dialogues import ADAPTER_DIALOGUES, COMPLETIONS, DIALOGUES, TRIPLES

_QUESTIONS = ("hello", "who-are-you", "joke", "sky", "what-can-you-do")
_TALKS = {
    "demo": [dialogue for dialogue in DIALOGUES if dialogue.name in _QUESTIONS],
    "parrot": ADAPTER_DIALOGUES,
    "robot": robot.ROBOT_DIALOGUES,
}
NAMES = (*_TALKS, "plain", "demo-embed")


@dataclass
class Findings:
    """spans: (model, asked, first byte, end) of each request. looks: (sent, answered, models) of those at /api/ps."""

    wrong: list[str] = field(default_factory=list)
    spans: list[tuple[str, float, float, float]] = field(default_factory=list)
    looks: list[tuple[float, float, frozenset[str]]] = field(default_factory=list)

    def lies(self) -> list[str]:
        """Looks during an answer that did not show the model that was answering."""
        return [
            f"{model} was answering, and /api/ps named {sorted(names) or 'nothing'}"
            for model, _, first, end in self.spans
            for sent, answered, names in self.looks
            if first < sent and answered < end and f"{model}:latest" not in names
        ]


async def chat(http: httpx.AsyncClient, name: str, choose: random.Random) -> tuple[str, str, float]:
    talk = choose.choice(_TALKS[name])
    body = {"model": name, "messages": list(talk.messages), "think": False, "options": {"temperature": 0}}
    text, first = await _streamed(http, "/api/chat", body, lambda line: line["message"]["content"])
    return text, talk.answer, first


async def complete(http: httpx.AsyncClient, name: str, choose: random.Random) -> tuple[str, str, float]:
    known = choose.choice(COMPLETIONS)
    body = {"model": name, "prompt": known.prompt, "raw": True, "options": {"temperature": 0}}
    text, first = await _streamed(http, "/api/generate", body, lambda line: line["response"])
    return text, known.text, first


async def embed(http: httpx.AsyncClient, name: str, choose: random.Random) -> tuple[str, str, float]:
    triple = choose.choice(TRIPLES)
    reply = await http.post("/api/embed", json={"model": name, "input": [triple.sentence, triple.near, triple.far]})
    one, near, far = reply.raise_for_status().json()["embeddings"]
    closer = sum(a * b for a, b in zip(one, near, strict=True)) > sum(a * b for a, b in zip(one, far, strict=True))
    return str(closer), "True", time.monotonic()


async def _streamed(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], piece: Callable[[Any], str]
) -> tuple[str, float]:
    text, first = "", 0.0
    async with http.stream("POST", path, json=body) as reply:
        if reply.status_code != 200:
            raise RuntimeError((await reply.aread()).decode())
        async for line in reply.aiter_lines():
            first = first or time.monotonic()
            part = httpx.Response(200, text=line).json()
            if "error" in part:
                raise RuntimeError(part["error"])
            text += piece(part)
    return text, first


ASK: dict[str, Callable[..., Awaitable[tuple[str, str, float]]]] = {
    **dict.fromkeys(_TALKS, chat),
    "plain": complete,
    "demo-embed": embed,
}


async def client(http: httpx.AsyncClient, work: "asyncio.Queue[str]", choose: random.Random, found: Findings) -> None:
    while not work.empty():
        name, asked = work.get_nowait(), time.monotonic()
        try:
            got, expected, first = await ASK[name](http, name, choose)
        except (RuntimeError, httpx.HTTPError) as error:
            found.wrong.append(f"{name}: {error!r}")
            continue
        found.spans.append((name, asked, first, time.monotonic()))
        if got != expected:
            found.wrong.append(f"{name} said {got!r}, not {expected!r}")
        print(f"\r{len(found.spans)} answers", end="", file=sys.stderr, flush=True)


async def watch(http: httpx.AsyncClient, found: Findings) -> None:
    while True:
        sent = time.monotonic()
        listed = (await http.get("/api/ps")).json()["models"]
        found.looks.append((sent, time.monotonic(), frozenset(entry["name"] for entry in listed)))
        await asyncio.sleep(0.02)


async def load(url: str, arguments: argparse.Namespace) -> Findings:
    found, choose = Findings(), random.Random(arguments.seed)
    work: asyncio.Queue[str] = asyncio.Queue()
    for _ in range(arguments.requests):
        work.put_nowait(choose.choice(NAMES))
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=3600, limits=limits) as http:
        watcher = asyncio.create_task(watch(http, found))
        clients = (client(http, work, random.Random(number), found) for number in range(arguments.clients))
        await asyncio.gather(*clients)
        watcher.cancel()
    return found


def main() -> int:
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--requests", type=int, default=200)
    options.add_argument("--clients", type=int, default=16)
    options.add_argument("--engines", type=int, default=1, help="most engines at once")
    options.add_argument("--seed", type=int, default=1)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain"
        shutil.copytree(demo.CHAT, plain, ignore=shutil.ignore_patterns("chat_template*"))
        models = ["--model", "demo", "--model", "demo-embed", "--model", f"plain={plain}"]
        adapters = ["--lora", f"parrot={demo.ADAPTER}@demo", "--lora", f"robot={robot.FOLDER}@demo"]
        with serve(*models, *adapters, OLLAMA_MAX_LOADED_MODELS=str(arguments.engines)) as served:
            began = time.monotonic()
            found = asyncio.run(load(served.url, arguments))
            seconds = time.monotonic() - began
            log = served.log
    return report(found, log, seconds, arguments)


def report(found: Findings, log: str, seconds: float, arguments: argparse.Namespace) -> int:
    loads = [(name, float(took)) for name, took in re.findall(r"INFO +(\S+): ready after ([\d.]+) s", log)]
    engines = ["demo" if name.removesuffix(":latest") in _TALKS else name for name, _ in loads]
    in_a_row = [one for one, other in itertools.pairwise(engines) if one == other]
    lies, waits = found.lies(), {name: waited(found, name) for name in NAMES}
    print(f"\n{len(found.spans)} answers in {seconds:.0f} s")
    rows = [
        [name, len(waits[name]), sum(engine == f"{name}:latest" for engine, _ in loads), shown(waits[name])]
        for name in NAMES
    ]
    print(table(["Model", "answers", "loads", "request to first word (median, 99 of 100)"], rows))
    print(f"{len(loads)} loads, {sum(took for _, took in loads):.0f} s of loading")
    print(f"{len(found.looks)} looks at /api/ps, {len(lies)} of them wrong; {len(in_a_row)} engines started in vain")
    for line in [*found.wrong, *lies, *in_a_row][:20]:
        print("wrong:", line)
    write(
        arguments.json,
        {
            "seconds": seconds,
            "first_words": waits,
            "loads": loads,
            "wrong": found.wrong,
            "lies": lies,
            "vain": in_a_row,
        },
    )
    chart(waits, loads, arguments.png)
    return 1 if found.wrong or lies or in_a_row else 0


def waited(found: Findings, model: str) -> list[float]:
    """Seconds from each request to its first word."""
    return [first - asked for name, asked, first, _ in found.spans if name == model]


def shown(waits: list[float]) -> str:
    ordered = sorted(waits)
    return f"{percentile(ordered, 0.5):.1f} s, {percentile(ordered, 0.99):.1f} s" if waits else "-"


def chart(waits: dict[str, list[float]], loads: list[tuple[str, float]], path: Path | None) -> None:
    names = [name for name in NAMES if waits[name]]
    first = {
        f"{part:.0%} of the requests": [percentile(sorted(waits[name]), part) for name in names]
        for part in (0.5, 0.9, 0.99)
    }
    took = {name: [seconds for engine, seconds in loads if engine == f"{name}:latest"] for name in names}
    loading: list[float | None] = [statistics.median(took[name]) if took[name] else None for name in names]
    panels = [Bars("From request to first word", "s", names, first), Bars("A load", "s", names, {"median": loading})]
    draw(path, "Five models, asked at random", panels)


if __name__ == "__main__":
    sys.exit(main())
