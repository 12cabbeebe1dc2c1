"""Models loaded before anybody asks them anything."""

import contextlib
import time
from collections.abc import AsyncGenerator

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.models.model import Model
from vllama.routes._ask import checked_keep_alive
from vllama.routes._edge import find_model, gateway_of
from vllama.routes._loading import Loading, load
from vllama.routes._reading import read_body
from vllama.routes.pulls import progress
from vllama.scheduling.scheduler import Scheduler
from vllama.wire.engines import PhaseTime, Warmed, WarmupRequest


async def warmup(request: Request) -> Response:
    """Others who wait for the same load are not concerned where this client leaves."""
    body = await read_body(request, WarmupRequest)
    keep_alive = checked_keep_alive(body.keep_alive)
    if not body.wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(request, body.wanted)
    statuses = _warm(gateway_of(request).scheduler, model, keep_alive)
    return await progress(request, statuses, streamed=body.stream is not False)


async def _warm(scheduler: Scheduler, model: Model, keep_alive: float | None) -> AsyncGenerator[Struct, None]:
    began = time.monotonic_ns()
    async with load(scheduler, model, keep_alive) as loading:
        async with contextlib.aclosing(loading.statuses()) as statuses:
            async for status in statuses:
                yield status
        yield Warmed(total_duration=time.monotonic_ns() - began, phases=_phases(loading))


def _phases(loading: Loading) -> list[PhaseTime]:
    report = loading.report()
    if report is None or loading.was_ready:
        return []
    return [PhaseTime(step.phase, round(step.seconds, 3)) for step in report.steps]


routes = [Route("/api/warmup", warmup, methods=["POST"])]
