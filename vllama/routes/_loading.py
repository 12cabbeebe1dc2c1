"""A model's load while somebody waits for it: where it is, as it goes on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import msgspec

from vllama.engine.engine import State
from vllama.engine.progress import Phase
from vllama.models.model import Model
from vllama.scheduling.report import Report
from vllama.scheduling.scheduler import Lease, Scheduler
from vllama.wire.engines import LoadingStatus

_AT_ONCE_S = 0.2
"""A load that ends within that time, well or badly, is not worth telling of."""
_PAUSE_S = 0.1
"""At least, between two lines: progress bars move more often."""
_TICK_S = 1.0
"""At most: the seconds go on."""
_WORD_S = 2.0
"""At least, between two of the chunks that tell of one phase."""


@dataclass(frozen=True)
class Loading:
    """A model on its way. was_ready: whether it was loaded before anybody asked here."""

    scheduler: Scheduler
    model: Model
    acquiring: "asyncio.Task[Lease]"
    was_ready: bool

    async def statuses(self) -> AsyncGenerator[LoadingStatus, None]:
        """Where the load is, until the model is ready. Raises what the load fails with."""
        ends, told, told_at = self.acquiring, None, 0.0
        await asyncio.wait({ends}, timeout=_AT_ONCE_S)
        while not ends.done():
            count, status = self.scheduler.changes.count, self._status()
            if told is None or not _is_alike(status, told) or time.monotonic() >= told_at + _TICK_S:
                told, told_at = status, time.monotonic()
                yield status
            await self._news(count)
            await asyncio.wait({ends}, timeout=_PAUSE_S)
        ends.result()

    def report(self) -> Report | None:
        return _report_of(self.scheduler, self.model)

    def _status(self) -> LoadingStatus:
        report = self.report()
        if report is None or report.phase is None:
            phase = Phase.WAKING if report is not None and report.state is State.ASLEEP else Phase.WAITING
            return LoadingStatus(phase, phase, None, "", 0.0)
        seconds = max(0.0, report.seconds - sum(step.seconds for step in report.steps))
        return LoadingStatus(report.phase, report.phase, report.fraction, report.detail, round(seconds, 3))

    async def _news(self, count: int) -> None:
        """Return as soon as something has changed, the load has ended, or it is time to say how long it takes."""
        change = asyncio.create_task(self.scheduler.changes.after(count))
        try:
            await asyncio.wait({change, self.acquiring}, timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)


@contextlib.asynccontextmanager
async def load(scheduler: Scheduler, model: Model, keep_alive: float | None) -> AsyncIterator[Loading]:
    """Have the model loaded, and keep it as a request would until the context is left."""
    report = _report_of(scheduler, model)
    was_ready = report is not None and report.state is State.READY
    async with contextlib.AsyncExitStack() as leases:
        acquiring = asyncio.create_task(leases.enter_async_context(scheduler.acquire(model, keep_alive)))
        try:
            yield Loading(scheduler, model, acquiring, was_ready)
        finally:
            acquiring.cancel()
            await asyncio.gather(acquiring, return_exceptions=True)


async def tell_loading(
    loading: AbstractAsyncContextManager[Loading], chunk: Callable[[str], bytes]
) -> AsyncGenerator[bytes, None]:
    """Chunks that tell of a model's load, until it has ended."""
    async with loading as load, contextlib.aclosing(_words(load)) as words:
        async for word in words:
            yield chunk(word)


async def _words(load: Loading) -> AsyncGenerator[str, None]:
    told, told_at = "", 0.0
    async with contextlib.aclosing(load.statuses()) as statuses:
        async for status in statuses:
            if status.status != told or time.monotonic() >= told_at + _WORD_S:
                told, told_at = status.status, time.monotonic()
                yield _in_words(status)


def _in_words(status: LoadingStatus) -> str:
    detail = f" ({status.detail})" if status.detail else ""
    seconds = f" {status.seconds:.0f} s" if status.seconds >= 1 else ""
    return f"{status.status}{detail}{seconds}\n"


def _report_of(scheduler: Scheduler, model: Model) -> Report | None:
    return next((report for report in scheduler.reports() if report.weights == model.weights), None)


def _is_alike(status: LoadingStatus, other: LoadingStatus) -> bool:
    return msgspec.structs.replace(status, seconds=0.0) == msgspec.structs.replace(other, seconds=0.0)
