"""Which ready engine serves a model: loaded on demand, one engine at a time, unloaded when idle.

Knows nothing of HTTP. Requests wait in the order in which they came; all that wait for one model share its load.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from vllama.engine.client import EngineClient
from vllama.engine.engine import Engine, State
from vllama.errors import ApiError, EngineError, VllamaError
from vllama.models.catalogue import Catalogue, Model

logger = logging.getLogger("vllama.scheduler")

BUSY = "server busy, please try again.  maximum pending requests exceeded"
_LONGEST_SLEEP_S = 86400.0


@dataclass(frozen=True)
class Lease:
    """A ready engine, for as long as the context that gave it lasts.

    model: as it is known once loaded. context_length: the engine's, in tokens, None where it does not say.
    """

    client: EngineClient
    model: Model
    context_length: int | None


@dataclass(frozen=True)
class Loaded:
    """A model in memory, on its way there (STARTING) or out of it (STOPPING).

    remaining: seconds until it is unloaded unless it is used, `inf` for never.
    """

    model: Model
    remaining: float
    context_length: int | None
    state: State = State.READY


class Scheduler(Protocol):
    """What the routes need of whoever owns the engines."""

    def acquire(self, model: Model, keep_alive: float | None = None) -> contextlib.AbstractAsyncContextManager[Lease]:
        """A ready engine for the model, loaded first where need be.

        keep_alive: seconds to stay loaded after this use; None leaves what the model has.
        Raises ApiError 503 where too many wait already, VllamaError with the cause where the load fails.
        """
        ...

    def unload(self, model: Model) -> None:
        """Unload the model as soon as nobody uses it; nothing happens where it is not loaded."""
        ...

    def loaded(self) -> list[Loaded]: ...

    def drain(self) -> None:
        """Refuse all that wait or come, and give up what is being loaded. Requests that run go on."""
        ...

    async def close(self) -> None:
        """Drain and unload, whoever uses the engine."""
        ...


@dataclass(eq=False)
class _Resident:
    """The model in memory, or on its way there. idle_since: by the loop's clock, None while it is used or loads."""

    model: Model
    engine: Engine
    keep_alive: float
    users: int = 0
    idle_since: float | None = None
    watch: asyncio.Task[bool] | None = None

    def serves(self, model: Model) -> bool:
        return self.model.name.key == model.name.key and self.engine.state is State.READY

    @property
    def remaining(self) -> float:
        if self.idle_since is None:
            return self.keep_alive
        return max(0.0, self.idle_since + self.keep_alive - asyncio.get_running_loop().time())

    @property
    def takes_memory(self) -> bool:
        return self.engine.state is not State.FAILED

    def shown(self) -> Loaded:
        stopping = self.engine.state is State.STOPPING
        remaining = 0.0 if stopping else self.remaining
        return Loaded(self.model, remaining, self.engine.context_length, self.engine.state)

    def must_go(self, *, wanted: bool) -> bool:
        """Whether it is to be unloaded. wanted: whether its place is."""
        dead = self.engine.state is not State.READY
        if self.users:
            return dead and wanted
        return dead or wanted or self.remaining <= 0

    def enter(self, keep_alive: float | None) -> None:
        self.users += 1
        self.idle_since = None
        if keep_alive is not None:
            self.keep_alive = keep_alive

    def rest(self) -> None:
        self.idle_since = asyncio.get_running_loop().time()


@dataclass(eq=False)
class _Waiter:
    model: Model
    keep_alive: float | None
    granted: "asyncio.Future[_Resident]"


Prepare = Callable[[Model], Awaitable[tuple[Model, Engine]]]
"""Makes an engine ready to be started: downloads what is missing, and says what is then known of the model."""


class LocalScheduler:
    """Owns the one engine. keep_alive: seconds, for requests that say nothing. max_queue: most requests waiting.

    Requests come and go and only note what they want; one task, the mover, acts on it.
    """

    def __init__(self, prepare: Prepare, *, keep_alive: float, max_queue: int) -> None:
        self._prepare = prepare
        self._keep_alive = keep_alive
        self._max_queue = max_queue
        self._resident: _Resident | None = None
        self._leaving: _Resident | None = None
        self._waiters: list[_Waiter] = []
        self._mover: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # what the mover waits for
        self._draining = False
        self._closed = False

    @contextlib.asynccontextmanager
    async def acquire(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Lease]:
        if self._draining:
            raise _closing()
        resident = self._resident
        # A ready engine is passed by while others wait for another model: they would never get their turn.
        if resident is not None and resident.serves(model) and not self._waiters:
            resident.enter(keep_alive)
        else:
            resident = await self._wait_for(model, keep_alive)
        try:
            yield Lease(resident.engine.client, resident.model, resident.engine.context_length)
        finally:
            self._leave(resident)

    def unload(self, model: Model) -> None:
        resident = self._resident
        if resident is not None and resident.model.name.key == model.name.key:
            resident.keep_alive = 0.0
            self._wake()

    def loaded(self) -> list[Loaded]:
        return [resident.shown() for resident in (self._resident, self._leaving) if resident and resident.takes_memory]

    def drain(self) -> None:
        self._draining = True
        waiters, self._waiters = self._waiters, []
        self._refuse(waiters, _closing())
        self._changed.set()

    async def close(self) -> None:
        self._closed = True
        self.drain()
        if self._mover is not None:
            await asyncio.wait({self._mover})

    async def _wait_for(self, model: Model, keep_alive: float | None) -> _Resident:
        if len(self._waiters) >= self._max_queue:
            raise ApiError(503, BUSY)
        waiter = _Waiter(model, keep_alive, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._wake()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._wake()
            elif not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._leave(waiter.granted.result())  # granted and cancelled in one turn of the loop
            raise

    def _leave(self, resident: _Resident) -> None:
        resident.users -= 1
        if resident.users == 0:
            resident.rest()
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        if (self._mover is None or self._mover.done()) and not self._closed:
            self._mover = asyncio.create_task(self._move(), name="scheduler")

    async def _move(self) -> None:
        """Do what is to be done, one thing at a time, until there is neither an engine nor anybody who waits."""
        while not self._closed and (self._waiters or self._resident):
            self._changed.clear()
            resident, wanted = self._resident, self._waiters[0].model if self._waiters else None
            if resident is None:
                assert wanted is not None
                await self._load(wanted)
            elif wanted is not None and resident.serves(wanted):
                for waiter in self._take_waiters(wanted):
                    resident.enter(waiter.keep_alive)
                    waiter.granted.set_result(resident)
            elif resident.must_go(wanted=wanted is not None):
                await self._unload(resident)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if resident.users else min(resident.remaining, _LONGEST_SLEEP_S)):
                        await self._changed.wait()
        if self._resident is not None:
            await self._unload(self._resident)

    async def _load(self, model: Model) -> None:
        """Load the model, or give it up on the way there, if it is not worth while any more."""
        loading = asyncio.create_task(self._start(model), name=f"load-{model.name.short}")
        loading.add_done_callback(lambda _: self._changed.set())
        while not loading.done() and self._is_worth_loading(model):
            self._changed.clear()
            await self._changed.wait()
        if not loading.done():
            logger.info("%s: not loaded, nobody waits for it any more", model.name.short)
            loading.cancel()
            await asyncio.wait({loading})
        elif loading.cancelled():  # by what it waited for: not by us
            self._fail(model, asyncio.CancelledError())

    def _is_worth_loading(self, model: Model) -> bool:
        """Also when all clients gave up, as most try again: until another model is asked for, or this one unloaded."""
        if self._waiters:
            return any(waiter.model.name.key == model.name.key for waiter in self._waiters)
        return not self._draining and (self._resident is None or self._resident.keep_alive > 0)

    async def _start(self, model: Model) -> None:
        """Make the model resident. A failure is told to those who wait for it."""
        began = time.monotonic()
        try:
            known, engine = await self._prepare(model)
            self._resident = resident = _Resident(known, engine, self._asked_keep_alive(model))
            logger.info(
                "%s: starting its engine, which takes a minute or so (log: %s)", model.name.short, engine.log_path
            )
            await engine.start()
        except asyncio.CancelledError:
            self._resident = None
            raise
        except Exception as error:
            self._resident = None
            self._fail(model, error)
        else:
            logger.info("%s: ready after %.1f s", model.name.short, time.monotonic() - began)
            resident.watch = asyncio.create_task(engine.ended.wait(), name=f"watch-{model.name.short}")
            resident.watch.add_done_callback(lambda _: self._changed.set())
            resident.rest()

    def _asked_keep_alive(self, model: Model) -> float:
        """What holds from the beginning of a load, should those who asked for it not wait for its end."""
        waiters = [waiter for waiter in self._waiters if waiter.model.name.key == model.name.key]
        asked = [waiter.keep_alive for waiter in waiters if waiter.keep_alive is not None]
        return asked[-1] if asked else self._keep_alive

    async def _unload(self, resident: _Resident) -> None:
        self._resident, self._leaving = None, resident
        if resident.watch is not None:
            resident.watch.cancel()
        if resident.engine.state is State.READY:
            logger.info("%s: unloading", resident.model.name.short)
        try:
            await resident.engine.stop()
        except Exception:
            logger.exception("%s: stopping its engine failed", resident.model.name.short)
        finally:
            self._leaving = None

    def _fail(self, model: Model, error: BaseException) -> None:
        if isinstance(error, VllamaError):
            logger.error("%s", error)
        else:
            logger.error("loading %s failed", model.name.short, exc_info=error)
            error = EngineError(
                f"loading {model.name.short} failed: {error!r}", "this is a fault of vllama's: report it"
            )
        self._refuse(self._take_waiters(model), error)

    def _take_waiters(self, model: Model) -> list[_Waiter]:
        """Those who wait for the model, and no more do."""
        mine = [waiter for waiter in self._waiters if waiter.model.name.key == model.name.key]
        self._waiters = [waiter for waiter in self._waiters if waiter not in mine]
        return [waiter for waiter in mine if not waiter.granted.done()]

    def _refuse(self, waiters: Iterable[_Waiter], error: VllamaError) -> None:
        for waiter in waiters:
            if not waiter.granted.done():
                waiter.granted.set_exception(error)


def _closing() -> EngineError:
    return EngineError("the server is stopping", "send the request again")


class AttachedScheduler:
    """Stands before a server that somebody else runs: nothing is loaded, unloaded or watched."""

    def __init__(self, client: EngineClient, catalogue: Catalogue) -> None:
        self._client = client
        self._catalogue = catalogue

    @contextlib.asynccontextmanager
    async def acquire(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Lease]:  # noqa: ARG002
        yield Lease(self._client, model, model.context_length)

    def unload(self, model: Model) -> None:
        pass

    def loaded(self) -> list[Loaded]:
        return [Loaded(model, math.inf, model.context_length) for model in self._catalogue]

    def drain(self) -> None:
        pass

    async def close(self) -> None:
        await self._client.close()
