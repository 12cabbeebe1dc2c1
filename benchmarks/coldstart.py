"""From a request to its first word, where the model is not loaded: how much sooner than vLLM's own server?

    uv run python benchmarks/coldstart.py [--rounds 5] [--second] [--goal 6] [--json FILE] [--png FILE]

Side by side, in turn, round after round: vLLM's server as its own command starts it, with the flags that our engine
gets; a model loaded by a gateway whose standby is parked; one loaded by a gateway without a standby. With --second the
gateway's first model streams an endless answer meanwhile, and it is a second model that is started. Exits with status
1 where the standby makes it less than GOAL times faster.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._chart import Bars, add_option, draw
from benchmarks._measuring import (
    ENDLESS,
    LOAD_S,
    client,
    first_word,
    parser,
    seconds,
    table,
    unload,
    until_parked,
    write,
)  # fmt: skip
from benchmarks._server import Server
from tests.served import Served, serve
from vllama import demo

WAYS = ("vLLM's own command", "gateway, standby parked", "gateway, --no-standby")


@contextlib.asynccontextmanager
async def singing(http: httpx.AsyncClient) -> AsyncIterator[None]:
    """While the first model streams."""
    sings = asyncio.Event()

    async def sing() -> None:
        while True:
            async with http.stream("POST", "/api/chat", json={"model": "demo", **ENDLESS}) as reply:
                async for line in reply.aiter_lines():
                    if "error" in json.loads(line):
                        raise RuntimeError(line)
                    sings.set()

    singer = asyncio.create_task(sing())
    try:
        async with asyncio.timeout(LOAD_S):
            waiting = asyncio.create_task(sings.wait())
            await asyncio.wait({waiting, singer}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if singer.done():
            singer.result()
        yield
    finally:
        singer.cancel()
        await asyncio.wait({singer})


Found = dict[str, list[float]]


async def measure(server: Server, parked: Served, plain: Served, arguments: argparse.Namespace) -> Found:
    found: Found = {way: [] for way in WAYS}
    model = "second" if arguments.second else "demo"
    async with client(parked.url) as standby, client(plain.url) as without:

        async def loaded(http: httpx.AsyncClient) -> float:
            took = await first_word(http, model)
            await unload(http, model)
            return took

        async def loaded_by_standby() -> float:
            await until_parked(standby)
            return await loaded(standby)

        ways: list[tuple[str, Callable[[], Awaitable[float]], httpx.AsyncClient]] = [
            (WAYS[0], server.first_word, standby),
            (WAYS[1], loaded_by_standby, standby),
            (WAYS[2], lambda: loaded(without), without),
        ]
        for turn in range(arguments.rounds):
            for way, start, http in ways:
                async with singing(http) if arguments.second else contextlib.nullcontext():
                    found[way].append(await start())
                print(f"round {turn + 1}, {way}: {found[way][-1]:.1f} s", file=sys.stderr, flush=True)
    return found


def main() -> int:
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--second", action="store_true", help="start a second model while a first serves")
    options.add_argument("--goal", type=float, default=6.0)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        second = Path(folder) / "second"
        shutil.copytree(demo.CHAT, second)
        server = Server(f"second={second}" if arguments.second else "demo")
        stack.callback(server.close)
        models = ("--model", "demo", "--model", f"second={second}")
        parked = stack.enter_context(serve(*models))
        plain = stack.enter_context(serve(*models, "--no-standby"))
        found = asyncio.run(measure(server, parked, plain, arguments))
    return report(found, arguments)


def report(found: Found, arguments: argparse.Namespace) -> int:
    medians = {way: statistics.median(values) for way, values in found.items()}
    rows = [[way, seconds(values), f"{medians[WAYS[0]] / medians[way]:.1f}"] for way, values in found.items()]
    print(table(["Way to start", "request to first word", "times faster"], rows))
    write(arguments.json, {"second": arguments.second, "seconds": found, "medians": medians})
    spans: dict[str, list[tuple[float, float] | None]] = {way: [(min(took), max(took))] for way, took in found.items()}
    started = "a second model" if arguments.second else "the first model"
    bars = Bars(started, "s", ["request to first word"], {way: [medians[way]] for way in found}, spans=spans)
    draw(arguments.png, "Cold start (median, least and most)", [bars])
    return 0 if medians[WAYS[0]] / medians[WAYS[1]] >= arguments.goal else 1


if __name__ == "__main__":
    sys.exit(main())
