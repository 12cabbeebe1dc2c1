"""Does a client that does not read harm anybody else?

    uv run --group bench python benchmarks/slow_reader.py [--others 63] [--stopped 30] [--path /api/chat]
        [--json FILE] [--png FILE]

Through `vllama serve --engine-url`, before a synthetic engine, 63 clients read answers with a token each 20 ms. One
more, in a process of its own, is sent 0.6 MB a second, stops reading for a while, and then reads on to the end. Told
are the delays of the others' tokens before, during and after, and the gateway's resident memory: what the slow one does
not take has to wait in the engine, not in the gateway. Exits with status 1 where the gateway held back more than 8 MB
of it, or a byte of anybody's is missing.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import sys
from array import array
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._chart import Lines, add_option, draw
from benchmarks._load import Client, Spec, connect, percentiles
from benchmarks._measuring import parser, table, write
from benchmarks._peers import Cores, Relays, Way
from benchmarks._slow_client import Told
from benchmarks._synthetic import Plan
from tests.served import ROOT

_CALM_S = 10
"""How long is measured before, and at least after."""
_END_S = 120.0
_SAMPLES_A_SECOND = 2
_SLOW_INTERVAL_MS = 2
_SLOW_SIZE = 1000
_BOUND_MB = 8.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """Of one stretch. at: seconds since the beginning. delays: ns of the others' tokens. slow: bytes it got so far."""

    at: float
    phase: str
    delays: "array[int]"
    resident: int
    slow: int


class Slow:
    """The client that stops reading. told: what it said last."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._listening = asyncio.create_task(self._listen())
        self.told = Told()

    @classmethod
    @contextlib.asynccontextmanager
    async def asking(cls, spec: Spec) -> AsyncIterator["Slow"]:
        command = (sys.executable, "-m", "benchmarks._slow_client")
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
        slow = cls(process)
        try:
            slow.order(json.dumps(asdict(spec)))
            yield slow
        finally:
            slow._listening.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def order(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.told = Told(**json.loads(line))

    async def ended(self, seconds: float) -> None:
        """Return when it is through, or after so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._listening, seconds)


class Watch:
    def __init__(self, others: Sequence[Client], slow: Slow, pid: int) -> None:
        self._others = others
        self._slow = slow
        self._statm = Path(f"/proc/{pid}/statm")
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.samples: list[Sample] = []

    async def phase(self, name: str, seconds: float) -> None:
        for _ in range(round(seconds * _SAMPLES_A_SECOND)):
            for client in self._others:
                del client.delays[:]
            await asyncio.sleep(1 / _SAMPLES_A_SECOND)
            delays = array("q", [delay for client in self._others for delay in client.delays])
            resident = int(self._statm.read_text().split()[1]) * _PAGE
            self.samples.append(
                Sample(self._loop.time() - self._began, name, delays, resident, self._slow.told.received)
            )

    def of(self, phase: str) -> list[Sample]:
        return [sample for sample in self.samples if sample.phase == phase]


def _spec(way: Way, plan: Plan, *, requests: int = 0) -> Spec:
    return Spec(way.address, way.path, way.asked(plan), plan.tokens, 1, requests=requests)


async def measure(way: Way, arguments: argparse.Namespace) -> tuple[Watch, list[str]]:
    """The samples, and what was wrong."""
    seconds = 2 * _CALM_S + arguments.stopped
    slow_plan = Plan(round((seconds - _CALM_S / 2) * 1000 / _SLOW_INTERVAL_MS), _SLOW_INTERVAL_MS, _SLOW_SIZE)
    steady = _spec(way, Plan(round((seconds + _END_S) * 50), 20))
    others = [await connect(steady) for _ in range(arguments.others)]
    async with Slow.asking(_spec(way, slow_plan, requests=1)) as slow:
        await asyncio.sleep(_CALM_S / 2)
        watch = Watch(others, slow, way.pid)
        await watch.phase("before", _CALM_S)
        slow.order("stop")
        await watch.phase("stopped", arguments.stopped)
        slow.order("go")
        await watch.phase("after", _CALM_S)
        await slow.ended(_END_S)
    wrong = [failure for failure in (slow.told.failure, *(client.failure for client in others)) if failure]
    if not slow.told.answers:
        wrong.append(f"the slow client got {slow.told.tokens} of {slow_plan.tokens} tokens")
    for client in others:
        client.leave()
    return watch, wrong


def report(watch: Watch, arguments: argparse.Namespace) -> list[str]:
    """Prints it. Returns what is wrong with it."""
    rows, found, read = [], {}, 0
    for phase in ("before", "stopped", "after"):
        samples = watch.of(phase)
        delays = percentiles([delay for sample in samples for delay in sample.delays])
        most = max(sample.resident for sample in samples) / 1e6
        taken, read = (samples[-1].slow - read) / 1e6, samples[-1].slow
        found[phase] = {**delays, "resident_mb": most, "slow_mb": taken}
        late = [f"{delays[name]:.2f} ms" for name in ("p50", "p99", "max")]
        rows.append([phase, *late, f"{most:.1f} MB", f"{taken:.1f} MB"])
    head = ["The slow one", "delay of the others p50", "p99", "longest", "resident, at most", "the slow one read"]
    print(table(head, rows))
    series = [
        {"at": sample.at, "phase": sample.phase, "p99_ms": percentiles(sample.delays).get("p99"),
         "resident_mb": sample.resident / 1e6, "slow_mb": sample.slow / 1e6}
        for sample in watch.samples
    ]  # fmt: skip
    write(arguments.json, {"phases": found, "series": series})
    chart(watch, arguments.png)
    grown = max(found["stopped"]["resident_mb"], found["after"]["resident_mb"]) - found["before"]["resident_mb"]
    return [f"the gateway grew by {grown:.1f} MB"] if grown > _BOUND_MB else []


def chart(watch: Watch, path: Path | None) -> None:
    stopped = watch.of("stopped")
    marks = {"one does not read": (stopped[0].at - 1 / _SAMPLES_A_SECOND, stopped[-1].at)}
    late = [(sample.at, percentiles(sample.delays).get("p99", 0.0)) for sample in watch.samples]
    held = [(sample.at, sample.resident / 1e6) for sample in watch.samples]
    taken = [(sample.at, sample.slow / 1e6) for sample in watch.samples]
    draw(
        path,
        "A client that stops reading",
        [
            Lines("Delay of the others' tokens, 99 of 100 below", "ms", "seconds", {"others": late}, marks=marks),
            Lines("Memory", "MB", "seconds", {"gateway, resident": held, "read by the slow one": taken}, marks=marks),
        ],
    )


def main() -> int:
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--others", type=int, default=63, help="how many clients read on (63)")
    options.add_argument("--stopped", type=float, default=30.0, help="seconds without reading (30)")
    options.add_argument("--path", default="/api/chat", help="dialect to ask in (/api/chat)")
    arguments = options.parse_args()
    cores = Cores.divide()
    print(cores, file=sys.stderr)
    os.sched_setaffinity(0, cores.clients)
    with ExitStack() as stack:
        (way,) = (way for way in Relays(stack, cores).gateway() if way.path == arguments.path)
        gc.disable()  # a pause would be measured as the relay's
        watch, wrong = uvloop.run(measure(way, arguments))
    wrong += report(watch, arguments)
    print("\n".join(f"wrong: {line}" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
