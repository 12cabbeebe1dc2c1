"""A gateway and its engine, found from outside: where each listens, and which processes they are."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
import psutil

from benchmarks._measuring import engines
from benchmarks._processes import role
from vllama.engine.process import session_members


@dataclass(frozen=True)
class UnderTest:
    """gateway, engine: their URLs, the engine's often `unix:/path`. model, served_name: what each calls the model.

    pids: of the gateway, the engine's API server, its core, and its worker where that is a process.
    """

    gateway: str
    engine: str
    model: str
    served_name: str
    pids: Mapping[str, int]


async def find(http: httpx.AsyncClient, gateway: int, model: str) -> UnderTest:
    """gateway: its pid. The model is loaded."""
    (session,) = [
        each["pid"] for each in (await engines(http))["engines"] if f"{model}:latest" in each["models"]
    ]  # fmt: skip
    members = {role(process, session): process for process in map(psutil.Process, session_members(session))}
    # A forked process shows its command as one text.
    command = " ".join(members["server"].cmdline()).split()
    url = _url(command)
    parts = {"API server": "server", "engine core": "core", "worker": "worker"}
    pids = {"gateway": gateway} | {name: members[part].pid for name, part in parts.items() if part in members}
    return UnderTest(str(http.base_url).rstrip("/"), url, model, await _served_name(url), pids)


def _url(command: list[str]) -> str:
    options = dict(itertools.pairwise(command))
    return f"unix:{options['--uds']}" if "--uds" in options else f"http://127.0.0.1:{options['--port']}"


async def _served_name(url: str) -> str:
    path = url.removeprefix("unix:") if url.startswith("unix:") else None
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=path), base_url="http://engine" if path else url
    ) as engine:
        found = (await engine.get("/v1/models")).raise_for_status().json()
    return str(found["data"][0]["id"])
