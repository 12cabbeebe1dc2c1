"""The engines as they are now, for people and for programs that watch them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from vllama.engine.engine import State
from vllama.framing import JSONResponse
from vllama.gateway import Gateway
from vllama.routes._edge import gateway_of, get
from vllama.scheduling.report import Report
from vllama.streams import begin, poured
from vllama.wire.engines import AdmissionStatus, EngineStatus, Overview, PhaseTime, Requests, StandbyStatus

_PAUSE_S = 0.1
"""At least, between two looks: progress bars move, and requests come and go, more often."""
_REFRESH_S = 2.0
"""Between two looks at engines that work: nobody tells how fast they are."""
_HEARTBEAT_S = 15.0
_HEARTBEAT = b": nothing new\n\n"


async def engines(request: Request) -> Response:
    return JSONResponse(await _overview(gateway_of(request)))


async def events(request: Request) -> Response:
    """All engines, then what changes of them, as Server-Sent Events until the server stops."""
    stream = poured(_events(gateway_of(request)))
    return await begin(request, stream, "text/event-stream", b": the server is stopping\n\n")


async def _overview(gateway: Gateway) -> Overview:
    statuses = (_status(gateway, report) for report in gateway.scheduler.reports())
    return Overview(await asyncio.gather(*statuses), await _standby(gateway), _admission(gateway))


async def _status(gateway: Gateway, report: Report) -> EngineStatus:
    client = report.client if report.state is State.READY else None
    usage = await gateway.stats.usage(client) if client is not None else None
    running, waiting = (usage.running, usage.waiting) if usage else (report.requests, 0)
    return EngineStatus(
        name=report.names[0],
        models=report.names,
        state=report.state,
        phase=report.phase,
        fraction=report.fraction,
        detail=report.detail,
        phases=[PhaseTime(step.phase, round(step.seconds, 3)) for step in report.steps],
        seconds=round(report.seconds, 3),
        memory=report.size,
        resident=await gateway.stats.memory(report.pid) if report.pid is not None else 0,
        requests=Requests(running, waiting + report.waiting),
        tokens_per_second=usage.tokens_per_second if usage else None,
        restarts=report.restarts,
        fast=report.fast,
        pid=report.pid,
        log=str(report.log) if report.log is not None else None,
        error=report.error,
    )


async def _standby(gateway: Gateway) -> StandbyStatus:
    standby = gateway.standby
    if standby is None:
        return StandbyStatus()
    memory = await gateway.stats.memory(standby.pid, standby.memory) if standby.pid is not None else 0
    return StandbyStatus(str(standby.state), standby.pid, memory, standby.reason)


def _admission(gateway: Gateway) -> AdmissionStatus:
    admission = gateway.admission
    return AdmissionStatus(
        requests=admission.in_flight,
        max_requests=admission.requests.most,
        bodies=admission.bodies.held,
        max_bodies=admission.bodies.most,
    )


async def _events(gateway: Gateway) -> AsyncGenerator[bytes, None]:
    """Compares what there is with what was told last: a slow reader misses steps, and keeps no queue of them."""
    changes = gateway.scheduler.changes
    count, told = changes.count, await _overview(gateway)
    told_at = time.monotonic()
    yield _event("engines", told)
    while not gateway.stopping:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REFRESH_S if _works(told) else _HEARTBEAT_S):
                await changes.after(count)
        count, now = changes.count, await _overview(gateway)
        if news := b"".join(_differences(told, now)):
            told_at = time.monotonic()
            yield news
        elif time.monotonic() >= told_at + _HEARTBEAT_S:
            told_at = time.monotonic()
            yield _HEARTBEAT
        told = now
        await asyncio.sleep(_PAUSE_S)


def _works(overview: Overview) -> bool:
    """Or did so until now: that it generates nothing any more is to be told, too."""
    engines = overview.engines
    return any(one.state == State.STARTING or one.requests.running or one.tokens_per_second for one in engines)


def _differences(told: Overview, now: Overview) -> Iterator[bytes]:
    before, after = ({one.name: one for one in overview.engines} for overview in (told, now))
    for name in before.keys() - after.keys():
        yield _event("gone", {"name": name})
    for name, one in after.items():
        if name not in before or _without_time(before[name]) != _without_time(one):
            yield _event("engine", one)
    if told.standby != now.standby:
        yield _event("standby", now.standby)


def _without_time(one: EngineStatus) -> EngineStatus:
    return msgspec.structs.replace(one, seconds=0.0)


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


routes = [get("/api/engines", engines), get("/api/engines/events", events)]
