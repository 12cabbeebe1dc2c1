"""A scheduler that a test leads from phase to phase."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from vllama.changes import Changes
from vllama.engine.client import EngineClient
from vllama.engine.engine import State
from vllama.models.model import Model
from vllama.scheduling.report import Report
from vllama.scheduling.scheduler import Lease, Loaded


class LedScheduler:
    """One engine, at most. failure: raised to those who wait, once `ready` is set. users: those who have it now."""

    def __init__(self, client: EngineClient) -> None:
        self.client = client
        self.changes = Changes()
        self.report: Report | None = None
        self.ready = asyncio.Event()
        self.failure: Exception | None = None
        self.asked: list[float | None] = []
        self.users = 0

    def tell(self, **changed: Any) -> None:
        """Change what there is to be told of the engine."""
        self.report = replace(self.report or Report("", (), State.STARTING), **changed)
        self.changes.note()

    @contextlib.asynccontextmanager
    async def acquire(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Lease]:
        self.asked.append(keep_alive)
        if self.report is None:
            self.tell(weights=model.weights, names=(model.name.short,), state=State.STARTING)
        await self.ready.wait()
        if self.failure is not None:
            raise self.failure
        self.users += 1
        try:
            yield Lease(self.client, model, 4096)
        finally:
            self.users -= 1

    def reports(self) -> list[Report]:
        return [self.report] if self.report is not None else []

    def unload(self, model: Model) -> None:
        raise AssertionError

    def loaded(self) -> list[Loaded]:
        raise AssertionError

    def drain(self) -> None:
        self.ready.set()

    async def close(self) -> None:
        """Fails where somebody goes on to use the engine."""
        async with asyncio.timeout(5):
            while self.users:
                await asyncio.sleep(0)
        await self.client.close()
