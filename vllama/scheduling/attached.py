"""A server that somebody else runs, as a scheduler."""

import contextlib
import math
import sys
from collections.abc import AsyncIterator

from vllama.changes import Changes
from vllama.engine.client import EngineClient
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.overload import Bound
from vllama.scheduling.report import Report
from vllama.scheduling.scheduler import Lease, Loaded


class AttachedScheduler:
    """Stands before a server that somebody else runs: nothing is loaded, unloaded or watched.

    max_requests: most requests in flight to it.
    """

    def __init__(self, client: EngineClient, catalogue: Catalogue, max_requests: int = sys.maxsize) -> None:
        self._client = client
        self._catalogue = catalogue
        self._bound = Bound(max_requests, "max_requests_per_engine")
        self._in_flight = 0
        self.changes = Changes()

    @contextlib.asynccontextmanager
    async def acquire(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Lease]:  # noqa: ARG002
        self._bound.check(self._in_flight)
        self._in_flight += 1
        try:
            yield Lease(self._client, model, model.context_length)
        finally:
            self._in_flight -= 1

    def unload(self, model: Model) -> None:
        pass

    def loaded(self) -> list[Loaded]:
        return [Loaded(model, math.inf, model.context_length) for model in self._catalogue]

    def reports(self) -> list[Report]:
        return []  # its engines are watched by whoever runs them

    def drain(self) -> None:
        pass

    async def close(self) -> None:
        await self._client.close()
