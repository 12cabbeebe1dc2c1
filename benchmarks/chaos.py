"""What do clients get, and what is left over, when processes are killed while answers are streamed?

    uv run python benchmarks/chaos.py [--rounds 20] [--clients 8] [--stop] [--json FILE]

Starts `vllama serve` over the demo model, and clients that stream endlessly in three dialects. Each round kills
(SIGKILL) in turn the standby, the API server, the engine core, a worker and the gateway, which is then started again as
a service manager would. With --stop it is SIGSTOP, of API server, engine core, worker and guard: a hung engine has to
be noticed and replaced. Exits with status 1 where a client got anything but an answer or an error that says so, or
where a process or a file was left over.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._clients import Clients, Fate, Request
from benchmarks._measuring import LOAD_S, LateError, client, engines, parser, seconds, table, until, write
from benchmarks._processes import Place, kinds, place, role
from vllama.engine.process import session_members

KILLED = ("standby", "server", "core", "worker", "gateway")
STOPPED = ("server", "core", "worker", "guard")
_QUIET_S = 60.0
"""For processes to end and the standby to be parked again."""
_UNNOTICED_S = 60.0
_HARMLESS = (Fate.COMPLETE, Fate.RETRIED, Fate.ERROR)


@dataclass
class Blow:
    """One process that was hit. noticed: seconds until its engine was no longer ready, None where it stayed so.

    answered: seconds until an answer began to come that became complete. left: what was there afterwards and was not
    before.
    """

    victim: str
    fates: Counter[Fate] = field(default_factory=Counter)
    noticed: float | None = None
    answered: float | None = None
    left: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


async def state(http: httpx.AsyncClient) -> dict[str, Any]:
    """What the gateway tells; nothing while it is not there."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        return await engines(http)
    return {"engines": [], "standby": {"state": "off"}}


async def engine_pid(http: httpx.AsyncClient) -> int | None:
    ready = (entry for entry in (await state(http))["engines"] if entry["state"] == "ready")
    return next((entry["pid"] for entry in ready), None)


async def find(http: httpx.AsyncClient, victim: str, where: Place) -> int | None:
    """The process's pid, None where there is none of this kind."""
    if victim == "gateway":
        return where.served.process.pid
    if victim == "standby":
        standby = (await state(http))["standby"]
        return standby.get("pid") if standby["state"] == "parked" else None
    session = await engine_pid(http)
    for pid in session_members(session) if session is not None else []:
        with contextlib.suppress(psutil.Error):
            if role(psutil.Process(pid), session or 0) == victim:
                return pid
    return None


async def settle(http: httpx.AsyncClient, clients: Clients) -> None:
    """Wait until the engine is ready, every client was answered once more, and no standby is still starting."""
    before = len(clients.done)

    async def is_settled() -> bool:
        clients.check()
        answered = {request.client for request in clients.done[before:] if request.fate is Fate.COMPLETE}
        told = await state(http)
        ready = any(entry["state"] == "ready" for entry in told["engines"])
        return ready and len(answered) == clients.count and told["standby"]["state"] != "starting"

    await until(is_settled, LOAD_S, "every client is answered")


async def hit(victim: str, number: int, where: Place, http: httpx.AsyncClient, clients: Clients) -> Blow | None:
    async def all_stream() -> bool:
        clients.check()
        return len(clients.streaming) == clients.count

    pid, engine = await find(http, victim, where), await engine_pid(http)
    if pid is None:
        return None
    blow, processes, files = Blow(victim), kinds(), where.files()
    await until(all_stream, LOAD_S, "every client streams")
    struck, before = time.monotonic(), len(clients.done)
    os.kill(pid, number)
    if victim == "gateway":
        await asyncio.to_thread(where.start_again)
    elif number == signal.SIGSTOP:
        blow.noticed = await until_noticed(http, engine)
        if blow.noticed is None:
            os.kill(pid, signal.SIGCONT)
    blow.answered = await until_answered(clients, before, struck)
    await settle(http, clients)
    during = [request for request in clients.done[before:] if request.began < struck + blow.answered]
    ends_engine = victim not in ("standby", "gateway")
    blow.fates.update(request.fate_at(struck) if ends_engine else request.fate for request in during)
    blow.told = sorted({request.detail for request in during if request.detail})
    blow.left = await leftovers(processes, files, where)
    return blow


async def until_noticed(http: httpx.AsyncClient, engine: int | None) -> float | None:
    async def is_noticed() -> bool:
        return await engine_pid(http) != engine

    with contextlib.suppress(LateError):
        return await until(is_noticed, _UNNOTICED_S, "the engine is replaced")
    return None


async def until_answered(clients: Clients, before: int, struck: float) -> float:
    def answers() -> list[Request]:
        return [each for each in clients.done[before:] if each.fate is Fate.COMPLETE and each.first > struck]

    async def is_answered() -> bool:
        clients.check()
        return bool(answers())

    await until(is_answered, LOAD_S, "anybody is answered")
    return min(each.first for each in answers()) - struck


async def leftovers(processes: Counter[str], files: Sequence[str], where: Place) -> list[str]:
    """What there is more of than before, once what is ending has had time to."""

    async def is_clean() -> bool:
        return not kinds() - processes and len(where.files()) <= len(files)

    with contextlib.suppress(LateError):
        await until(is_clean, _QUIET_S, "")
        return []
    more = [f"{count} x {what}" for what, count in (kinds() - processes).items()]
    return more + [name for name in where.files() if name not in files]


async def storm(where: Place, arguments: argparse.Namespace, blows: list[Blow]) -> None:
    """Adds to `blows` as it goes: what ends early tells what it has seen."""
    number, victims = (signal.SIGSTOP, STOPPED) if arguments.stop else (signal.SIGKILL, KILLED)
    clients = Clients(where.url, arguments.clients)
    try:
        async with client(where.url) as http:
            await settle(http, clients)
            for turn in range(arguments.rounds):
                for victim in victims:
                    blow = await hit(victim, number, where, http, clients)
                    print(f"round {turn + 1}, {victim}: {blow or 'there is none'}", file=sys.stderr, flush=True)
                    blows += [blow] if blow else []
    finally:
        await clients.close()


def is_wrong(blow: Blow) -> bool:
    allowed = (*_HARMLESS, Fate.REFUSED, Fate.CUT) if blow.victim == "gateway" else _HARMLESS
    return bool(blow.left) or any(fate not in allowed for fate in blow.fates)


def report(blows: Sequence[Blow], path: Path | None) -> int:
    by_victim: dict[str, list[Blow]] = defaultdict(list)
    for blow in blows:
        by_victim[blow.victim].append(blow)
    rows = []
    for victim, hits in by_victim.items():
        fates = sum((blow.fates for blow in hits), Counter[Fate]())
        noticed = seconds([blow.noticed for blow in hits if blow.noticed is not None])
        answered = seconds([blow.answered for blow in hits if blow.answered is not None])
        left = sum(len(blow.left) for blow in hits)
        rows.append([victim, len(hits), *(fates[fate] for fate in Fate), noticed, answered, left])
    print(table(["Hit", "times", *Fate, "noticed", "next answer", "left over"], rows))
    write(path, {"blows": [asdict(blow) | {"fates": dict(blow.fates)} for blow in blows]})
    wrong = [blow for blow in blows if is_wrong(blow)]
    for blow in wrong[:20]:
        print("wrong:", blow)
    return 1 if wrong or not blows else 0


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--stop", action="store_true", help="stop processes instead of killing them")
    arguments = options.parse_args()
    blows: list[Blow] = []
    try:
        with place("--model", "demo", "--preload", "demo") as where:
            asyncio.run(storm(where, arguments, blows))
    except (KeyboardInterrupt, LateError) as error:
        print(f"ended early: {error!r}")
        report(blows, arguments.json)
        return 1
    return report(blows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
