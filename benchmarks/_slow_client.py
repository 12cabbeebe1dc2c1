"""A client that stops reading when it is told to, in a process of its own: what it costs is nobody else's.

    echo SPEC | python -m benchmarks._slow_client

SPEC is the JSON of a `Spec` of one request. Further lines are `stop` and `go`. Printed is the JSON of a `Told`, twice a
second, and once more when all was received or nothing follows.
"""

import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._load import Client, Spec, connect

_EVERY_S = 0.5
_OF_NO_HURRY = 19


@dataclass(frozen=True)
class Told:
    """received: bytes. answers: 1 when all was received, which is in order. failure: what went wrong, if it did."""

    received: int = 0
    tokens: int = 0
    answers: int = 0
    failure: str = ""


def _tell(client: Client) -> None:
    print(json.dumps(asdict(Told(client.received, client.tokens, client.answers, client.failure))), flush=True)


async def _telling(client: Client) -> None:
    while True:
        await asyncio.sleep(_EVERY_S)
        _tell(client)


async def _obeying(client: Client, orders: asyncio.StreamReader) -> None:
    acts = {b"stop\n": lambda: client.transport.pause_reading(), b"go\n": lambda: client.transport.resume_reading()}
    async for order in orders:
        acts[order]()


async def run() -> None:
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    client = await connect(Spec(**json.loads(await orders.readline())))
    others = [asyncio.create_task(work) for work in (_telling(client), _obeying(client, orders))]
    await asyncio.wait([client.ended, others[1]], return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    _tell(client)


if __name__ == "__main__":
    os.nice(_OF_NO_HURRY)  # on another machine it would take nothing from those whose delays are measured
    uvloop.run(run())
