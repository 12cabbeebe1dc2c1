"""What does a token cost on its way through the gateway, and how much later does it come?

    uv run --group bench python benchmarks/relay.py [--peers] [--before COMMIT] [--json FILE] [--png FILE]
    uv run python benchmarks/relay.py --loads paced --connections 256 --rounds 1 --ways floor '/api/chat'

Starts a synthetic engine (`_synthetic`) and before it, each in a process of its own: a bare relay, which costs what
Python's event loop does and a parser (`_floor`), `vllama serve --engine-url`, which is asked in three dialects, and
with --peers a hand-written proxy with httpx (`_reference`) and LiteLLM's, which is installed by uv for the time.
--before adds the gateway of another commit. Clients are in another process; every token is checked for its order. In
each round every way gets every load in turn, so that whatever else the machine does meets all alike; told are medians
and ranges.

The loads, at each number of connections:

* `paced`: an answer for each, a token each 20 ms, measured when all of them stream: CPU time of the relay for a token,
  and each token's delay from the engine's write to the client's read, which is what jitter there is.
* `requests`: answers of 25 such tokens one after the other: the time to the first of each.
* `bursts`: answers of 1000 tokens, one after the other, as fast as they are taken: tokens a second.
* `sequential`: one client alone, 200 short answers in turn.

CPU time for a token means something only where the relay keeps up: one that is behind finds many tokens in each read,
which makes each cheaper. So see that the tokens a second are all that were asked for (50 for each connection), and that
the delay is some milliseconds at most; on a machine that is busy with other things `--realtime` has the kernel
prefer, of all processes, the relay that is measured, the engine and the clients, while they run.

The relays share one core, the engine and the clients have the others, where there are others. Where two cores are all
there is, the tokens a second of `bursts` are limited by engine and clients, too: `direct` shows by how much.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._chart import add_option, draw
from benchmarks._load import Found, Spec
from benchmarks._measuring import parser, write
from benchmarks._peers import Cores, Relays, Way, preferred
from benchmarks._relay_report import panels, rows, summary, tables
from benchmarks._synthetic import Plan
from tests.served import ROOT

_INTERVAL_MS = 20
_RAMP_S = 1.0
_RUN_S = 60.0


@dataclass(frozen=True)
class Load:
    """What the clients ask. alone: of one client only, so many requests."""

    name: str
    plan: Callable[[float], Plan]
    timed: bool = True
    alone: int = 0

    def spec(self, way: Way, connections: int, seconds: float) -> Spec:
        plan = self.plan(seconds)
        return Spec(
            way.address, way.path, way.asked(plan), plan.tokens, connections,
            ramp=0.0 if self.alone else _RAMP_S * min(1.0, connections / 64), seconds=seconds,
            requests=self.alone, timed=self.timed, pid=way.pid,
        )  # fmt: skip


LOADS = (
    Load("paced", lambda seconds: Plan(round((seconds + _RUN_S) * 1000 / _INTERVAL_MS), _INTERVAL_MS)),
    Load("requests", lambda _: Plan(25, _INTERVAL_MS)),
    Load("bursts", lambda _: Plan(1000), timed=False),
    Load("sequential", lambda _: Plan(8), alone=200),
)


@dataclass(frozen=True)
class Run:
    way: str
    load: str
    connections: int
    found: Found


def runs(loads: Sequence[Load], connections: Sequence[int]) -> Iterator[tuple[Load, int]]:
    for load in loads:
        yield from ((load, 1),) if load.alone else ((load, number) for number in connections)


def measure(load: Load, way: Way, connections: int, arguments: argparse.Namespace, cores: Cores) -> Found:
    """In a process of its own, which nothing of an earlier run slows down."""
    spec = json.dumps(asdict(load.spec(way, connections, arguments.seconds)))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._load"], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    os.sched_setaffinity(process.pid, cores.clients)
    try:
        with preferred(process.pid, way.pid) if arguments.realtime else nullcontext():
            said, _ = process.communicate(spec, timeout=_RUN_S + arguments.seconds)
    except subprocess.TimeoutExpired:
        return Found(failures=[f"not within {_RUN_S:.0f} s"])
    finally:
        process.kill()
        process.wait()
    return Found(**json.loads(said)) if process.returncode == 0 else Found(failures=[f"status {process.returncode}"])


def all_runs(ways: Sequence[Way], arguments: argparse.Namespace, cores: Cores) -> Iterator[Run]:
    loads = [load for load in LOADS if load.name in arguments.loads]
    asked = list(itertools.product(range(arguments.rounds), runs(loads, arguments.connections), ways))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as progress:
        task = progress.add_task("", total=len(asked))
        for turn, (load, connections), way in asked:
            progress.update(task, description=f"round {turn + 1}: {load.name}, {connections}, {way.name}")
            found = measure(load, way, connections, arguments, cores)
            progress.console.print(summary(load.name, connections, way.name, found), markup=False, highlight=False)
            for failure in found.failures[:3]:
                progress.console.print(f"wrong: {way.name}, {load.name}, {connections}: {failure}", markup=False)
            yield Run(way.name, load.name, connections, found)
            progress.advance(task)


def start(relays: Relays, arguments: argparse.Namespace) -> list[Way]:
    """Those that were asked for. Raises LateError where one does not answer."""
    starts: list[tuple[str, Callable[[], list[Way]]]] = [("floor", relays.floor), ("vllama", relays.gateway)]
    if arguments.before:
        starts.append((arguments.before, lambda: relays.before(arguments.before)))
    if arguments.peers:
        starts += [("httpx reference", relays.reference), ("LiteLLM", relays.litellm)]
    found = [relays.direct]
    for name, begin in starts:
        print(f"starting {name}", file=sys.stderr, flush=True)
        found += begin()
    chosen = [way for way in found if not arguments.ways or any(part in way.name for part in arguments.ways)]
    if not chosen:
        sys.exit(f"--ways {' '.join(arguments.ways)} chooses none of these: {', '.join(way.name for way in found)}")
    return chosen


def environment(cores: Cores) -> dict[str, Any]:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip(), "python": platform.python_version(), "kernel": platform.release(),
        "processor": model.partition(":")[2].strip(), "processors": os.cpu_count(), "cores": str(cores),
    }  # fmt: skip


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(arguments).items() if name not in ("json", "png")}


def options() -> argparse.ArgumentParser:
    found = parser(__doc__)
    add_option(found)
    names = [load.name for load in LOADS]
    found.add_argument("--peers", action="store_true", help="compare with a proxy by hand and with LiteLLM's")
    found.add_argument("--before", metavar="COMMIT", help="compare with the gateway of another commit")
    found.add_argument("--ways", nargs="+", metavar="PART", help="only ways whose names contain one of these")
    found.add_argument("--loads", nargs="+", choices=names, default=names)
    found.add_argument("--connections", nargs="+", type=int, help="how many clients at once (1 16 64 256)")
    found.add_argument("--seconds", type=float, help="how long each run is measured (2)")
    found.add_argument("--rounds", type=int, help="how often each load is run (3)")
    found.add_argument(
        "--realtime", action="store_true", help="have the kernel prefer the relay, the engine and the clients; for root"
    )
    found.add_argument(
        "--quick", action="store_true", help="one round of 1 s at 1 and 64 connections, unless told otherwise"
    )
    return found


def main() -> int:
    arguments = options().parse_args()
    usual = ([1, 64], 1.0, 1) if arguments.quick else ([1, 16, 64, 256], 2.0, 3)
    for name, value in zip(("connections", "seconds", "rounds"), usual, strict=True):
        setattr(arguments, name, getattr(arguments, name) or value)
    cores = Cores.divide()
    print(cores, file=sys.stderr)
    os.sched_setaffinity(0, {*cores.engine, *cores.clients})
    found: dict[tuple[str, int, str], list[Found]] = defaultdict(list)
    with ExitStack() as stack:
        relays = Relays(stack, cores)
        ways = start(relays, arguments)
        if arguments.realtime:
            stack.enter_context(preferred(relays.engine.pid))
        for run in all_runs(ways, arguments, cores):
            found[run.load, run.connections, run.way].append(run.found)
    print("\n" + tables(found))
    draw(arguments.png, "What the relay costs", panels(found))
    write(arguments.json, {"environment": environment(cores), "settings": _settings(arguments), "runs": rows(found)})
    return 1 if any(run.failures for several in found.values() for run in several) else 0


if __name__ == "__main__":
    sys.exit(main())
