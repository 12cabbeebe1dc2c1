"""Requests that wait for an engine."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from vllama.errors import EngineError, VllamaError
from vllama.models.model import Model
from vllama.overload import Bound
from vllama.scheduling.resident import Resident
from vllama.scheduling.tenant import Tenant

Grant = tuple[Resident, Tenant]


@dataclass(eq=False)
class Waiter:
    model: Model
    keep_alive: float | None
    granted: "asyncio.Future[Grant]"

    def wants(self, weights: str, adapter: str | None) -> bool:
        """Whether it waits for the weights' engine, or for an adapter on it."""
        return self.model.weights == weights and adapter in (None, self.model.engine_name)


class Waiters:
    """In the order in which they came. most: that may wait at once."""

    def __init__(self, most: int) -> None:
        self._bound = Bound(most, "max_queue")
        self._all: list[Waiter] = []

    def __iter__(self) -> Iterator[Waiter]:
        """As they are now; the list may change meanwhile."""
        return iter(tuple(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def add(self, model: Model, keep_alive: float | None) -> Waiter:
        """Raises ApiError 503 where too many wait."""
        self._bound.check(len(self._all))
        waiter = Waiter(model, keep_alive, asyncio.get_running_loop().create_future())
        self._all.append(waiter)
        return waiter

    def remove(self, waiter: Waiter) -> bool:
        """Whether it still waited."""
        if waiter not in self._all:
            return False
        self._all.remove(waiter)
        return True

    def count(self, weights: str, adapter: str | None = None) -> int:
        return sum(waiter.wants(weights, adapter) for waiter in self._all)

    def refuse(self, error: VllamaError, weights: str | None = None, adapter: str | None = None) -> None:
        """Tell those who wait for that why they do so in vain, or all."""
        waiting, self._all = self._all, []
        for waiter in waiting:
            if weights is not None and not waiter.wants(weights, adapter):
                self._all.append(waiter)
            elif not waiter.granted.done():
                waiter.granted.set_exception(error)


def closing() -> EngineError:
    """For those who wait, or come, when the server stops."""
    return EngineError("the server is stopping", "send the request again")
