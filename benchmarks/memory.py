"""Does anything of the gateway grow with the requests that it has answered?

    uv run python benchmarks/memory.py [--requests 100000] [--clients 64] [--every 5000] [--json FILE] [--png FILE]

Starts the gateway before an engine without a model, and clients that ask all kinds of things on and on: streams and
whole answers in three dialects, what is refused by the engine and by the gateway, and streams that the client leaves in
the middle. Every so many requests the gateway's memory, descriptors, threads and tasks are counted. Exits with status 1
where an answer was not what it should be, where memory grew after the first fifth, or more of the rest was left over
than connections to the engine that are kept.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._chart import Lines, add_option, draw
from benchmarks._measuring import LateError, parser, table, until, write
from benchmarks._synthetic import Plan
from benchmarks.churn import Count, growth, held
from tests.served import ROOT, Served, environment, wait_until
from vllama.bench.connection import Connection, LostError, Target

_TOKENS, _ENDLESS = Plan(20), Plan(90_000, 20)
_WARM_UP = 0.2
_QUIET_S = 20.0
_BYTES_A_REQUEST = 40.0
_MORE: Count = {"threads": 4.0, "tasks": 4.0}
"""What there may be more of in the end; a descriptor for each client, too, as connections to the engine are kept."""


@dataclass(frozen=True)
class Kind:
    """A request. end: what is in the last bytes of its answer. leaves: once the answer has begun to come."""

    path: str
    body: bytes
    end: bytes
    status: int = 200
    leaves: bool = False


def _chat(plan: Plan | str, **more: Any) -> bytes:
    return msgspec.json.encode({"model": "demo", "messages": [{"role": "user", "content": f"Count: {plan}"}], **more})


def kinds() -> dict[str, Kind]:
    found = {}
    ends = {"/api/chat": b'"done":true', "/v1/chat/completions": b"[DONE]", "/v1/messages": b"message_stop"}
    for path, end in ends.items():
        most: dict[str, Any] = {"max_tokens": 100_000} if path == "/v1/messages" else {}
        found[f"{path}, streamed"] = Kind(path, _chat(_TOKENS, stream=True, **most), end)
        found[f"{path}, whole"] = Kind(path, _chat(_TOKENS, stream=False, **most), b"}")
        found[f"{path}, left"] = Kind(path, _chat(_ENDLESS, stream=True, **most), b"", leaves=True)
        found[f"{path}, refused by the engine"] = Kind(path, _chat("to ten", stream=True, **most), b"}", 400)
        found[f"{path}, not JSON"] = Kind(path, b"{", b"}", 400)
    found["/api/tags"] = Kind("/api/tags", b"{}", b"405 method not allowed", 405)
    return found


@dataclass
class Findings:
    answered: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    counts: list[tuple[int, Count]] = field(default_factory=list)


async def ask(connection: Connection, target: Target, kind: Kind) -> str:
    """What was wrong with the answer, "" for nothing."""
    tail = b""

    def take(data: bytes, _now: float) -> None:
        nonlocal tail
        tail = (tail + data)[-200:]
        if kind.leaves:
            connection.close()

    try:
        status = await connection.ask(target.request(kind.path, kind.body), take)
    except LostError as error:
        return str(error)
    if status != kind.status or kind.end not in tail:
        return f"{status}: {tail.decode(errors='replace')}"
    return ""


async def client(target: Target, number: int, left: list[int], found: Findings) -> None:
    choose, chosen = random.Random(number), kinds()
    connection = Connection(target)
    while left[0] > 0:
        left[0] -= 1
        name = choose.choice(list(chosen))
        if wrong := await ask(connection, target, chosen[name]):
            found.wrong[f"{name}: {wrong}"] += 1
        found.answered[name] += 1
    connection.close()


async def count(served: Served, watched: Path) -> Count:
    pid = served.process.pid
    watched.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)

    async def has_told() -> bool:
        return watched.exists()

    await until(has_told, _QUIET_S, "the gateway tells of its tasks")
    process = psutil.Process(pid)
    return {
        "MB": held(pid) / 1e6, "resident MB": process.memory_info().rss / 1e6, "descriptors": process.num_fds(),
        "threads": process.num_threads(), "tasks": float(watched.read_text()),
    }  # fmt: skip


async def measure(served: Served, watched: Path, arguments: argparse.Namespace) -> Findings:
    """Each count is taken with nobody asking: the clients come back for the next ones."""
    found, target = Findings(), Target(served.url)
    found.counts.append((0, await count(served, watched)))
    for done in range(0, arguments.requests, arguments.every):
        left = [min(arguments.every, arguments.requests - done)]
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(arguments.clients):
                group.create_task(client(target, done + number, left, found))
        answered = sum(found.answered.values()) - done
        found.counts.append((done + answered, await quiet(served, watched, found.counts[0][1])))
        print(
            f"{done + answered} requests, {answered / (time.monotonic() - began):.0f} a second",
            file=sys.stderr,
            flush=True,
        )
    return found


async def quiet(served: Served, watched: Path, before: Count) -> Count:
    """The count once all who left are forgotten, or after a while."""
    counts = [await count(served, watched)]

    async def is_forgotten() -> bool:
        counts.append(await count(served, watched))
        return counts[-1]["tasks"] <= before["tasks"]

    with contextlib.suppress(LateError):
        await until(is_forgotten, _QUIET_S, "all who left are forgotten")
    return counts[-1]


@contextlib.contextmanager
def gateway() -> Iterator[tuple[Served, Path]]:
    """Before an engine that needs no model; and the file in which it tells of its tasks."""
    with tempfile.TemporaryDirectory(prefix="vl-") as folder, contextlib.ExitStack() as stack:
        socket, watched = Path(folder) / "engine.sock", Path(folder) / "tasks"
        engine = subprocess.Popen([sys.executable, "-m", "benchmarks._synthetic", "--unix", str(socket)], cwd=ROOT)
        stack.callback(engine.wait, 10)
        stack.callback(engine.terminate)
        wait_until(socket.exists, 30, "the engine listens")
        command = [
            sys.executable,
            "-m",
            "benchmarks._watched",
            "serve",
            "--port",
            "0",
            "--engine-url",
            f"unix:{socket}",
        ]
        served = Served(command, environment(VLLAMA_HOME=folder, HF_HOME=folder, WATCHED=str(watched)), ROOT)
        stack.callback(served.close)
        served.wait_listening()
        yield served, watched


def report(found: Findings, arguments: argparse.Namespace) -> int:
    names = list(found.counts[0][1])
    rows = [[number, *(f"{counted[name]:.1f}" for name in names)] for number, counted in found.counts]
    warm = [(number, counted) for number, counted in found.counts if number >= _WARM_UP * arguments.requests]
    grown = growth(warm)
    print(table(["Requests", *names], [*rows, ["100,000 more", *(f"{1e5 * grown[name]:+.2f}" for name in names)]]))
    print(table(["Kind", "answers"], sorted(found.answered.items())))
    write(arguments.json, {"counts": found.counts, "growth": grown, "answers": found.answered, "wrong": found.wrong})
    chart(found.counts, arguments.png)
    wrong = [f"{times} x {what}" for what, times in found.wrong.most_common(20)]
    more_bytes = 1e6 * grown["MB"]
    wrong += [f"memory grew by {more_bytes:.0f} bytes with each request"] if more_bytes > _BYTES_A_REQUEST else []
    before, after = found.counts[0][1], found.counts[-1][1]
    allowed = _MORE | {"descriptors": arguments.clients}
    more = {name: after[name] - before[name] for name in allowed}
    wrong += [f"{more[name]:.0f} more {name}" for name, most in allowed.items() if more[name] > most]
    for line in wrong:
        print("wrong:", line)
    return 1 if wrong else 0


def chart(counts: Sequence[tuple[int, Count]], path: Path | None) -> None:
    def lines(*names: str) -> dict[str, list[tuple[float, float]]]:
        return {name: [(number, counted[name]) for number, counted in counts] for name in names}

    panels = [
        Lines("Memory of the gateway", "MB", "requests", lines("MB", "resident MB")),
        Lines("What else it holds", "number", "requests", lines("descriptors", "threads", "tasks")),
    ]
    draw(path, "Requests of all kinds", panels)


def main() -> int:
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--requests", type=int, default=100_000)
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--every", type=int, default=5_000)
    arguments = options.parse_args()
    with gateway() as (served, watched):
        found = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(measure(served, watched, arguments))
    return report(found, arguments)


if __name__ == "__main__":
    sys.exit(main())
