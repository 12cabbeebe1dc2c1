"""The real vLLM of this machine: how fast is it through the gateway, and how fast without?

    uv run python benchmarks/engine.py [--clients 1,8,32,64] [--rounds 5] [--seconds 8] [--tokens 128]
        [--ways PART ...] [--intervals 1,2,4,8] [--vllm-client] [--goal 0.97] [--json FILE] [--png FILE]
        [-- ARGUMENTS OF VLLAMA SERVE]

Starts `vllama serve` and asks the same engine in turn, round after round: directly on its socket, in OpenAI's
interface, and through the gateway, in OpenAI's and in Ollama's. Every answer has as many tokens as it may. With
--vllm-client vLLM's own benchmark does it as well (`vllm bench serve`, random prompts). With --intervals it is another
question: the engine is asked directly for several tokens an event (`stream_interval`). Exits with status 1 where the
gateway's OpenAI interface has less than GOAL of the direct tokens a second with up to 32 clients.

On a machine whose speed changes from minute to minute, many short rounds tell more than a few long ones: each ratio is
the median of those within the rounds. `worker busy` is the CPU seconds a second of the process that computes: the
engine's worker, or its core where there is no worker. With --ways only the ways whose names contain a PART are asked,
and those they are compared with; there is no goal where the gateway's OpenAI chats are not among them.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._chart import Bars, add_option, draw
from benchmarks._dialects import CHAT, COMPLETIONS, OLLAMA, maker
from benchmarks._measuring import client, load, parser, table, write
from benchmarks._processes import free_port
from benchmarks._under_test import UnderTest, find
from benchmarks._vllm_client import FEW, compare
from tests.served import Served, serve
from vllama.bench.connection import Target
from vllama.bench.dialects import Dialect
from vllama.bench.load import Level, Plan, run
from vllama.bench.summary import Summary, summarize


@dataclass(frozen=True)
class Way:
    """To the engine. beside: the way that it is compared with, "" for those that others are compared with."""

    name: str
    target: Target
    dialect: Dialect
    model: str
    beside: str = ""
    more: Mapping[str, int] = field(default_factory=dict)

    def plan(self, tokens: int, seconds: float) -> Plan:
        return Plan(
            self.target, self.dialect, maker(self.dialect, self.model, dict(self.more)), tokens, seconds=seconds
        )


@dataclass(frozen=True)
class Cell:
    """One way in one round. cpu: microseconds a token, by process."""

    way: str
    summary: Summary
    cpu: dict[str, float]

    @property
    def busy(self) -> float:
        """CPU seconds a second of the process that computes."""
        return self.cpu["worker" if "worker" in self.cpu else "engine core"] * self.summary.tokens_per_second / 1e6


DIRECT, GATEWAY = "direct", "gateway"
GOAL_WAY = f"{GATEWAY} {CHAT.path}"


def ways(tested: UnderTest) -> list[Way]:
    def direct(dialect: Dialect) -> Way:
        return Way(f"{DIRECT} {dialect.path}", Target(tested.engine), dialect, tested.served_name)

    def gateway(dialect: Dialect, like: Dialect) -> Way:
        name = f"{GATEWAY} {dialect.path}"
        return Way(name, Target(tested.gateway), dialect, tested.model, f"{DIRECT} {like.path}")

    return [
        direct(CHAT), gateway(CHAT, CHAT), gateway(OLLAMA, CHAT),
        direct(COMPLETIONS), gateway(COMPLETIONS, COMPLETIONS),
    ]  # fmt: skip


def selected(found: list[Way], parts: Sequence[str]) -> list[Way]:
    """Those whose names contain one of the parts, and those they are compared with; all where there are no parts."""
    chosen = [way for way in found if not parts or any(part in way.name for part in parts)]
    if not chosen:
        sys.exit(f"--ways {' '.join(parts)} chooses none of these: {', '.join(way.name for way in found)}")
    beside = {way.beside for way in chosen}
    return [way for way in found if way in chosen or way.name in beside]


def intervals(tested: UnderTest, numbers: Sequence[int]) -> list[Way]:
    def way(number: int) -> Way:
        beside = f"{numbers[0]} an event" if number != numbers[0] else ""
        more = {"stream_interval": number}
        return Way(f"{number} an event", Target(tested.engine), CHAT, tested.served_name, beside, more)

    return [way(number) for number in numbers]


async def measure(tested: UnderTest, chosen: Sequence[Way], arguments: argparse.Namespace, cells: list[Cell]) -> None:
    """Adds to `cells` as it goes, a round when it is over. Raises RuntimeError where an answer was an error."""
    for turn in range(arguments.rounds):
        cells += [
            await _cell(tested, chosen[(place + turn) % len(chosen)], clients, arguments)  # each is once the first
            for clients in arguments.clients
            for place in range(len(chosen))
        ]
        print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr, flush=True)


async def _cell(tested: UnderTest, way: Way, clients: int, arguments: argparse.Namespace) -> Cell:
    level, before = Level(clients), _cpu(tested.pids)
    await run(way.plan(arguments.tokens, arguments.seconds), level)
    found, after = summarize(level), _cpu(tested.pids)
    if found.errors:
        raise RuntimeError(f"{way.name}: {found.errors}")
    cpu = {name: 1e6 * (after[name] - before[name]) / found.tokens for name in after}
    told = ", ".join(f"{name} {spent:.0f} µs/token" for name, spent in cpu.items())
    speed = f"{found.tokens_per_second:.0f} tokens/s"
    print(f"{clients} clients, {way.name}: {speed}, {told}", file=sys.stderr, flush=True)
    return Cell(way.name, found, cpu)


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return {name: found.user + found.system for name, found in times.items()}


def of(cells: Sequence[Cell], way: str, clients: int) -> list[Cell]:
    """Round by round."""
    return [cell for cell in cells if cell.way == way and cell.summary.clients == clients]


def ratio(cells: Sequence[Cell], way: Way, clients: int) -> float:
    """Of its tokens a second to those of the way it is compared with: the median of what the rounds say."""
    pairs = zip(of(cells, way.name, clients), of(cells, way.beside, clients), strict=True)
    return statistics.median(own.summary.tokens_per_second / other.summary.tokens_per_second for own, other in pairs)


def row(cells: Sequence[Cell], way: Way, clients: int) -> list[str]:
    own = of(cells, way.name, clients)
    speeds = [cell.summary.tokens_per_second for cell in own]
    spreads = [cell.summary for cell in own]
    return [
        str(clients), way.name, f"{statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f})",
        f"{ratio(cells, way, clients):.3f}" if way.beside else "1",
        f"{statistics.median(cell.busy for cell in own):.2f}",
        *(f"{statistics.median(values):.1f}" for values in (
            [found.ttft.p50 for found in spreads if found.ttft], [found.ttft.p99 for found in spreads if found.ttft],
            [found.itl.p50 for found in spreads if found.itl], [found.itl.p99 for found in spreads if found.itl],
        )),
        *(f"{statistics.median(cell.cpu[name] for cell in own):.0f}" for name in own[0].cpu),
    ]  # fmt: skip


def report(cells: Sequence[Cell], chosen: Sequence[Way], arguments: argparse.Namespace) -> int:
    head = ["clients", "way", "tokens/s", "ratio", "worker busy", "TTFT p50 ms", "p99", "ITL p50 ms", "p99"]
    head += [f"{name} µs/token" for name in cells[0].cpu]
    rows = [row(cells, way, clients) for clients in arguments.clients for way in chosen]
    print(table(head, rows))
    ratios = {
        way.name: {clients: ratio(cells, way, clients) for clients in arguments.clients} for way in chosen if way.beside
    }
    write(
        arguments.json,
        {"cells": msgspec.to_builtins([asdict(cell) | {"summary": cell.summary} for cell in cells]), "ratios": ratios},
    )
    chart(cells, chosen, arguments)
    reached = ratios.get(GOAL_WAY, {})
    return 1 if any(found < arguments.goal for clients, found in reached.items() if clients <= FEW) else 0


def chart(cells: Sequence[Cell], chosen: Sequence[Way], arguments: argparse.Namespace) -> None:
    def series(number: str) -> dict[str, list[float]]:
        def value(cell: Cell) -> float:
            found = cell.summary
            spread = {"ttft": found.ttft, "itl": found.itl}.get(number)
            return spread.p50 if spread else found.tokens_per_second

        return {
            way.name: [statistics.median(map(value, of(cells, way.name, clients))) for clients in arguments.clients]
            for way in chosen
        }

    groups = [str(clients) for clients in arguments.clients]
    panels = [
        Bars("Throughput", "tokens/s", groups, series("rate"), axis="clients"),
        Bars("Time to first token, p50", "ms", groups, series("ttft"), axis="clients"),
        Bars("Between tokens, p50", "ms", groups, series("itl"), axis="clients"),
    ]
    draw(arguments.png, "The real engine", panels)


async def main_of(served: Served, arguments: argparse.Namespace) -> int:
    async with client(served.url) as http:
        await load(http, arguments.model)
        tested = await find(http, served.process.pid, arguments.model)
    if arguments.vllm_client:
        return await compare(tested, arguments)
    chosen = intervals(tested, arguments.intervals) if arguments.intervals else selected(ways(tested), arguments.ways)
    cells = list[Cell]()
    try:
        await measure(tested, chosen, arguments, cells)
    except RuntimeError as error:
        print(f"ended early: {error}")
        return 1
    finally:
        status = report(cells, chosen, arguments) if cells else 1
    return status


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--model", default="demo")
    options.add_argument("--clients", type=numbers, default=[1, 8, 32, 64])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=8.0, help="within which the last requests of a round begin")
    options.add_argument("--tokens", type=int, default=128, help="length of each answer")
    options.add_argument(
        "--ways",
        nargs="+",
        metavar="PART",
        default=[],
        help="only ways whose names contain one of these, and those they are compared with",
    )
    options.add_argument("--intervals", type=numbers, default=[], help="values of stream_interval to compare")
    options.add_argument("--vllm-client", action="store_true", help="measure with vLLM's own benchmark")
    options.add_argument("--goal", type=float, default=0.97)
    arguments = options.parse_args(given[:split])
    more = given[split + 1 :] + (["--vllm-port", str(free_port())] if arguments.vllm_client else [])
    # The gateway does not see what the engine is asked directly: it would unload a model that nobody uses.
    with (
        serve("--model", arguments.model, "--keep-alive", "-1", *more) as served,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop,
    ):
        return loop.run(main_of(served, arguments))


if __name__ == "__main__":
    sys.exit(main())
