"""What the routes need of whoever owns the engines."""

import contextlib
from dataclasses import dataclass
from typing import Protocol

from vllama.changes import Changes
from vllama.engine.client import EngineClient
from vllama.engine.engine import State
from vllama.models.model import Model
from vllama.scheduling.report import Report


@dataclass(frozen=True)
class Lease:
    """A ready engine, for as long as the context that gave it lasts.

    model: as it is known once loaded; its `engine_name` is what the engine calls it. context_length: the engine's, in
    tokens, None where it does not say.
    """

    client: EngineClient
    model: Model
    context_length: int | None


@dataclass(frozen=True)
class Loaded:
    """A name under which a model is in memory, on its way there (STARTING) or out of it (STOPPING).

    remaining: seconds until it is unloaded unless it is used, `inf` for never. size: bytes of memory that its engine
    takes, which all names on one engine share; 0 where that is not known.
    """

    model: Model
    remaining: float
    context_length: int | None
    state: State = State.READY
    size: int = 0


class Scheduler(Protocol):
    def acquire(self, model: Model, keep_alive: float | None = None) -> contextlib.AbstractAsyncContextManager[Lease]:
        """A ready engine for the model, loaded first where need be.

        keep_alive: seconds to stay loaded after this use; None leaves what the name has.
        Raises ApiError 503 where too many wait, or use its engine, already; VllamaError with the cause where the load
        fails.
        """
        ...

    def unload(self, model: Model) -> None:
        """Unload the model as soon as nobody uses it; nothing happens where it is not loaded."""
        ...

    def loaded(self) -> list[Loaded]: ...

    @property
    def changes(self) -> Changes:
        """Of what `reports` says."""
        ...

    def reports(self) -> list[Report]:
        """All engines, what is on its way to one, and what failed since it was last asked for."""
        ...

    def drain(self) -> None:
        """Refuse all that wait or come, and give up what is being loaded. Requests that run go on."""
        ...

    async def close(self) -> None:
        """Drain and unload, whoever uses the engines."""
        ...
