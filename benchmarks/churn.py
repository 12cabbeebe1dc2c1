"""Does anything grow when a model is loaded and unloaded over and over?

    uv run python benchmarks/churn.py [--loads 100] [--every 10] [--json FILE]

Starts `vllama serve` over the demo model and loads and unloads it. Every so many loads, with nothing loaded, it counts
processes, threads, open files, sockets, memory and files in the temporary folder. What came with the first ten is
allowed; exits with status 1 where anything grew after that.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measuring import client, engines, first_word, parser, seconds, table, unload, until_parked, write
from benchmarks._processes import Place, descendants, place

_WARM_UP = 10
_GROWTH: Mapping[str, float] = {
    "processes": 0.0, "files": 0.0, "gateway threads": 0.02, "gateway fds": 0.02, "gateway sockets": 0.02,
    "gateway MB": 0.1, "standby threads": 0.0, "standby fds": 0.0, "standby MB": 0.1,
}  # fmt: skip
"""What each may grow by with a load: of threads and descriptors one in fifty, as pools fill."""

Count = dict[str, float]


async def count(http: httpx.AsyncClient, where: Place) -> Count:
    """With nothing loaded."""
    found: Count = {"processes": len(descendants()), "files": len(where.files())}
    found |= _of("gateway", where.served.process.pid)
    standby = (await engines(http))["standby"]
    return found | (_of("standby", standby["pid"]) if standby["state"] == "parked" else {})


def _of(name: str, pid: int) -> Count:
    process = psutil.Process(pid)
    return {
        f"{name} threads": process.num_threads(),
        f"{name} fds": process.num_fds(),
        f"{name} sockets": len(process.net_connections("all")),
        f"{name} MB": held(pid) / 1e6,
    }


def held(pid: int) -> int:
    """Bytes of its own: pages of files are shared with whoever else runs Python, and are the kernel's to drop."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


async def churn(where: Place, arguments: argparse.Namespace) -> tuple[list[tuple[int, Count]], list[float]]:
    counts, took = list[tuple[int, Count]](), list[float]()
    async with client(where.url) as http:
        has_standby = (await engines(http))["standby"]["state"] != "off"
        for number in range(1, arguments.loads + 1):
            if has_standby:
                await until_parked(http)
            took.append(await first_word(http, "demo"))
            await unload(http, "demo")
            if number == min(_WARM_UP, arguments.loads // 2) or number % arguments.every == 0:
                if has_standby:
                    await until_parked(http)
                counts.append((number, await count(http, where)))
            print(f"\r{number} loads, the last in {took[-1]:.1f} s", end="", file=sys.stderr, flush=True)
    return counts, took


def growth(counts: Sequence[tuple[int, Count]]) -> Count:
    """By which each number grew with a load since the first count: the slope of a line through all of them."""
    numbers = [number for number, _ in counts]
    middle = sum(numbers) / len(numbers)
    spread = sum((number - middle) ** 2 for number in numbers)
    return {
        name: sum((number - middle) * found.get(name, 0.0) for number, found in counts) / spread if spread else 0.0
        for name in counts[0][1]
    }


def report(counts: Sequence[tuple[int, Count]], took: Sequence[float], path: Path | None) -> int:
    print()
    names = list(counts[0][1])
    rows = [[number, *(f"{found.get(name, float('nan')):.0f}" for name in names)] for number, found in counts]
    grown = growth(counts)
    print(table(["Loads", *names], [*rows, ["a load", *(f"{grown[name]:+.3f}" for name in names)]]))
    print(f"request to first word: {seconds(took)}")
    write(path, {"counts": counts, "growth": grown, "seconds": took})
    wrong = [name for name in names if name in _GROWTH and grown[name] > _GROWTH[name] + 1e-9]
    print("\n".join(f"wrong: {name} grew by {grown[name]:.3f} with each load" for name in wrong))
    return 1 if wrong or len(counts) < 2 else 0


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--loads", type=int, default=100)
    options.add_argument("--every", type=int, default=10)
    arguments = options.parse_args()
    with place("--model", "demo") as where:
        counts, took = asyncio.run(churn(where, arguments))
    return report(counts, took, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
