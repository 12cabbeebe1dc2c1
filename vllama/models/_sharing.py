"""Work that several wait for: done once, and no longer than somebody wants it."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
P = TypeVar("P")
R = TypeVar("R")

Start = Callable[[Callable[[P], None]], Coroutine[Any, Any, R]]


@dataclass(eq=False)
class _Job(Generic[P, R]):
    """task: None until there is one. last: what was reported last, for those who join later."""

    task: "asyncio.Task[R] | None" = None
    last: P | None = None
    listeners: list[Callable[[P], None]] = field(default_factory=list)

    def report(self, progress: P) -> None:
        self.last = progress
        for listener in tuple(self.listeners):
            listener(progress)


class Shared(Generic[K, P, R]):
    """Jobs by what they are about, a few of them at once. waiting: what is reported of one whose turn is not yet."""

    def __init__(self, at_once: int, waiting: P) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._waiting = waiting
        self._jobs: dict[K, _Job[P, R]] = {}

    async def join(self, key: K, start: Start[P, R], report: Callable[[P], None]) -> R:
        """The result of the job, started if there is none. It ends when the last one who waits for it is cancelled."""
        job = self._jobs.get(key)
        if job is None:
            self._jobs[key] = job = _Job()
            job.task = asyncio.create_task(self._run(key, job, start))
        assert job.task is not None
        job.listeners.append(report)
        if job.last is not None:
            report(job.last)
        try:
            return await asyncio.shield(job.task)
        finally:
            job.listeners.remove(report)
            if not job.listeners and not job.task.done():
                self._forget(key, job)
                job.task.cancel()
                await asyncio.gather(job.task, return_exceptions=True)

    async def _run(self, key: K, job: _Job[P, R], start: Start[P, R]) -> R:
        try:
            if self._places.locked():
                job.report(self._waiting)
            async with self._places:
                return await start(job.report)
        finally:
            self._forget(key, job)

    def _forget(self, key: K, job: _Job[P, R]) -> None:
        """Who comes now starts anew; which another may have done already."""
        if self._jobs.get(key) is job:
            del self._jobs[key]
