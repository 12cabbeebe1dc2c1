"""What do the start profiles cost, and what do they give?

    uv run python benchmarks/startup.py [--rounds 3] [--model demo] [--tokens 256] [--streams 16] [--json FILE]

For each profile in turn, round after round: `vllama serve --startup PROFILE --no-standby`, the seconds until the model
is ready, and tokens a second of one stream and of several, of which the best round counts: whatever else runs on a
machine only slows it down. In the first round nothing is compiled yet.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measuring import ENDLESS, client, load, parser, seconds, table, write
from tests.served import ENGINE_HOME, serve

PROFILES = ("fast", "balanced", "throughput")


async def tokens(http: httpx.AsyncClient, model: str, most: int) -> int:
    body = {"model": model, **ENDLESS, "options": {"temperature": 0, "num_predict": most}, "stream": False}
    return int((await http.post("/api/chat", json=body)).raise_for_status().json()["eval_count"])


async def speed(http: httpx.AsyncClient, model: str, most: int, streams: int) -> float:
    """Tokens a second of that many answers at once, all together."""
    await asyncio.gather(*(tokens(http, model, 8) for _ in range(streams)))  # whatever a first batch of this size costs
    began = time.monotonic()
    made = await asyncio.gather(*(tokens(http, model, most) for _ in range(streams)))
    return sum(made) / (time.monotonic() - began)


async def measure(url: str, arguments: argparse.Namespace) -> tuple[float, float, float]:
    async with client(url) as http:
        took = await load(http, arguments.model)
        one = await speed(http, arguments.model, arguments.tokens, 1)
        return took, one, await speed(http, arguments.model, arguments.tokens, arguments.streams)


def run(home: Path, profile: str, arguments: argparse.Namespace) -> tuple[float, float, float]:
    with serve(
        "--model", arguments.model, "--startup", profile, "--no-standby", VLLAMA_HOME=str(home),
        HF_HOME=str(ENGINE_HOME / "huggingface"),
    ) as served:  # fmt: skip
        return asyncio.run(measure(served.url, arguments))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--model", default="demo")
    options.add_argument("--tokens", type=int, default=256, help="length of each answer")
    options.add_argument("--streams", type=int, default=16)
    arguments = options.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        used = Path(folder) / "used"
        run(used, "fast", arguments)  # vLLM's flags and its list of architectures are read, its files in the page cache
        for profile in PROFILES:
            shutil.copytree(used, Path(folder) / profile, symlinks=True)
        for turn in range(arguments.rounds):
            for profile in PROFILES:
                found[profile].append(run(Path(folder) / profile, profile, arguments))
                print(f"round {turn + 1}, {profile}: {found[profile][-1]}", file=sys.stderr, flush=True)
    rows = []
    for profile, rounds in found.items():
        took, one, many = zip(*rounds, strict=True)
        rows.append([f"`{profile}`", f"{took[0]:.1f} s", seconds(took[1:]), f"{max(one):.0f}", f"{max(many):.0f}"])
    print(table(["Profile", "first start", "later starts", "tokens/s", f"of {arguments.streams} streams"], rows))
    write(arguments.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
