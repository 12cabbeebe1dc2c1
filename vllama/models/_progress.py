"""The progress of files on their way from or to the hub, as the events that Ollama's clients show."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

from vllama.errors import VllamaError
from vllama.models.hub import DownloadProgress, Report
from vllama.wire.manage import Progress

T = TypeVar("T")

Events = AsyncGenerator[Progress, None]


class Transfer(Generic[T]):
    """Work that reports, as a series of events. verb: what is said of a file. result: there when they are through."""

    result: T

    def __init__(self, verb: str, work: Callable[[Report], Coroutine[Any, Any, T]]) -> None:
        self._verb = verb
        self._work = work
        self._news = asyncio.Event()
        self._latest: DownloadProgress | None = None
        self._told: dict[str, Progress] = {}

    async def events(self) -> Events:
        """Raises what the work raises; the work ends when this is closed."""
        task = asyncio.create_task(self._work(self._report))
        task.add_done_callback(lambda _: self._news.set())
        try:
            while not task.done():
                await self._news.wait()
                self._news.clear()
                for event in self._changes():
                    yield event
            self.result = task.result()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, VllamaError):
                await task

    def _report(self, progress: DownloadProgress) -> None:
        self._latest = progress
        self._news.set()

    def _changes(self) -> Iterator[Progress]:
        """What is new, however much there was between: nothing piles up for a client that reads slowly."""
        latest, self._latest = self._latest, None
        if latest is not None and latest.phase == "waiting":
            yield Progress("waiting for other downloads")
        for file in latest.files if latest is not None else ():
            event = Progress(f"{self._verb} {file.digest[7:19]}", file.digest, file.total, file.completed)
            if self._told.get(file.name) != event:
                self._told[file.name] = event
                yield event
