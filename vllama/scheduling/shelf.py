"""The adapters on one engine."""

import asyncio
import logging
from collections.abc import Callable

from vllama.models.model import Model
from vllama.scheduling.engines import Engine

logger = logging.getLogger("vllama.scheduler")

Changed = Callable[[str, BaseException | None], None]
"""Called when an adapter was put on or taken off, with its name and what went wrong."""


class Shelf:
    """Adapters by the names that the engine knows them by, each put on and taken off by a task of its own.

    closing: an adapter in use that another waits for; newcomers to it wait too.
    """

    def __init__(self, engine: Engine, slots: int, changed: Changed) -> None:
        self._engine = engine
        self._slots = slots
        self._changed = changed
        self._moving: dict[str, asyncio.Task[None]] = {}
        self.ready: set[str] = set()
        self.closing: str | None = None

    def has(self, name: str) -> bool:
        """Whether it is there, or moves."""
        return name in self.ready or name in self._moving

    @property
    def busy(self) -> bool:
        return bool(self._moving)

    @property
    def full(self) -> bool:
        return len(self.ready) + len(set(self._moving.values())) >= self._slots

    def put_on(self, model: Model, *, instead_of: str | None = None) -> None:
        task = asyncio.create_task(self._put_on(model, instead_of), name=f"adapter-{model.engine_name}")
        self._moving[model.engine_name] = task
        if instead_of is not None:
            self.ready.discard(instead_of)
            self._moving[instead_of] = task

    def take_off(self, name: str) -> None:
        if name in self.ready:
            self.ready.discard(name)
            self._moving[name] = asyncio.create_task(self._take_off(name), name=f"adapter-{name}")

    async def clear(self) -> None:
        """Give up what is under way, before the engine ends."""
        tasks = set(self._moving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._moving.clear()
        self.ready.clear()

    async def _put_on(self, model: Model, instead_of: str | None) -> None:
        if instead_of is not None:
            await self._take_off(instead_of)
        assert model.adapter is not None
        name, error = model.engine_name, None
        try:
            await self._engine.load_adapter(name, model.adapter.path)
        except Exception as raised:
            error = raised
        else:
            self.ready.add(name)
            logger.info("%s: its adapter is loaded", model.name.short)
        self._moving.pop(name, None)
        self._changed(name, error)

    async def _take_off(self, name: str) -> None:
        try:
            await self._engine.unload_adapter(name)
        except Exception as error:
            # The engine either forgot it already or has ended: in neither case does it hold a slot.
            logger.warning("%s: unloading the adapter failed: %s", name, error)
        self._moving.pop(name, None)
        self._changed(name, None)
