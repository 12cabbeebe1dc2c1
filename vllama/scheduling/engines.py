"""What the scheduler needs of engines, and of whoever makes them."""

import asyncio
from pathlib import Path
from typing import Protocol

from vllama.engine.client import EngineClient
from vllama.engine.engine import State
from vllama.engine.progress import Progress
from vllama.models.model import Model
from vllama.scheduling.plan import AdapterLimits, Demand


class Engine(Protocol):
    """One engine. Everything that can go wrong raises EngineError.

    name: what it calls its base model. size: bytes of memory planned for it. adapters: None where it takes none.
    """

    @property
    def client(self) -> EngineClient: ...
    @property
    def state(self) -> State: ...
    @property
    def progress(self) -> Progress:
        """Of its start."""
        ...

    @property
    def failure(self) -> str:
        """Cause and advice, where it ended by itself; "" before."""
        ...

    @property
    def fast(self) -> bool:
        """Whether it was forked from the standby."""
        ...

    @property
    def pid(self) -> int | None: ...
    @property
    def ended(self) -> asyncio.Event: ...
    @property
    def log_path(self) -> Path: ...
    @property
    def context_length(self) -> int | None: ...
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def adapters(self) -> AdapterLimits | None: ...

    async def start(self) -> None:
        """Return when it is ready. Where it fails or is cancelled, nothing of it is left."""
        ...

    async def stop(self) -> None: ...

    def can_sleep(self) -> bool:
        """Whether it can leave the GPU now for a quick return."""
        ...

    async def sleep(self) -> None: ...
    async def wake(self) -> None: ...
    async def load_adapter(self, name: str, path: Path) -> None: ...
    async def unload_adapter(self, name: str) -> None: ...


class Engines(Protocol):
    async def fetch(self, model: Model, progress: Progress) -> Model:
        """The model with its weights at hand, downloaded where need be; many may run at once.

        progress: told how much is there.
        """
        ...

    async def demand(self, model: Model) -> Demand:
        """Raises an EngineError with the numbers where the model can never fit on this machine."""
        ...

    async def free(self) -> int:
        """Bytes of memory that are free now."""
        ...

    def engine(self, model: Model, share: int | None) -> Engine:
        """An engine, not started yet. share: bytes that it may take; None where it is the only one."""
        ...
