"""Who is let in to which engine. Requests wait in the order in which they came, and share what they wait for."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from vllama.changes import Changes
from vllama.errors import ApiError, EngineError, VllamaError
from vllama.models.model import Model
from vllama.scheduling.engines import Engines
from vllama.scheduling.mover import Mover
from vllama.scheduling.report import Report
from vllama.scheduling.resident import Resident, Tenant, Terms, rank_of
from vllama.scheduling.scheduler import BUSY, Lease, Loaded
from vllama.scheduling.shelf import Changed

logger = logging.getLogger("vllama.scheduler")

_Grant = tuple[Resident, Tenant]


@dataclass(eq=False)
class _Waiter:
    model: Model
    keep_alive: float | None
    granted: "asyncio.Future[_Grant]"


class LocalScheduler:
    """Owns the engines.

    keep_alive: seconds, for requests that say nothing. max_queue: most requests waiting. max_loaded: most engines
    awake at once, 0 for as many as memory holds. pinned: keys of names that are never unloaded once they are loaded.

    Requests come and go and only note what they want; the mover acts on it. Downloads and adapters, which take no
    memory from anybody, have tasks of their own.
    """

    def __init__(
        self,
        engines: Engines,
        *,
        keep_alive: float,
        max_queue: int,
        max_loaded: int = 0,
        pinned: frozenset[str] = frozenset(),
    ) -> None:
        self._engines = engines
        self._terms = Terms(keep_alive, pinned)
        self._max_queue = max_queue
        self._residents: dict[str, Resident] = {}
        self._waiters: list[_Waiter] = []
        self._mover = Mover(engines, self._residents, self, max_loaded)
        self._draining = False
        self.changes = Changes()

    @contextlib.asynccontextmanager
    async def acquire(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Lease]:
        if self._draining:
            raise _closing()
        resident = self._residents.get(model.weights)
        if resident is not None and resident.serves(model):
            tenant = self._admit(resident, model, keep_alive)
        else:
            resident, tenant = await self._wait_for(model, keep_alive)
        try:
            yield resident.lease(tenant)
        finally:
            self._leave(resident, tenant)

    def unload(self, model: Model) -> None:
        for tenant in self._tenants_named(model):
            tenant.stay(0.0)
            self._mover.wake()

    def _tenants_named(self, model: Model) -> list[Tenant]:
        tenants = (tenant for resident in self._residents.values() for tenant in resident.tenants.values())
        return [tenant for tenant in tenants if tenant.asked.name.key == model.name.key]

    def loaded(self) -> list[Loaded]:
        return [shown for resident in self._residents.values() for shown in resident.shown()]

    def reports(self) -> list[Report]:
        return [resident.report() for resident in self._residents.values()]

    def drain(self) -> None:
        self._draining = True
        self.refuse(_closing(), lambda _: True)
        self._mover.drain()

    async def close(self) -> None:
        self.drain()
        await self._mover.close()

    async def _wait_for(self, model: Model, keep_alive: float | None) -> _Grant:
        if len(self._waiters) >= self._max_queue:
            raise ApiError(503, BUSY)
        waiter = _Waiter(model, keep_alive, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._attend(waiter)
        self._mover.wake()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._withdrawn(waiter)
            elif not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._leave(*waiter.granted.result())  # granted and cancelled in one turn of the loop
            raise

    def _withdrawn(self, waiter: _Waiter) -> None:
        if waiter.model.adapter is not None:
            self.serve()  # others may have made way for it
        self._mover.wake()

    def _admit(self, resident: Resident, model: Model, keep_alive: float | None) -> Tenant:
        tenant = self._tenant(resident, model)
        tenant.stay(keep_alive)
        tenant.enter()
        return tenant

    def _tenant(self, resident: Resident, model: Model) -> Tenant:
        tenant = resident.find(model)
        if tenant is None:
            for elsewhere in self._tenants_named(model):  # where the name led until now
                elsewhere.retire()
            tenant = resident.take_in(model)
        return tenant

    def _leave(self, resident: Resident, tenant: Tenant) -> None:
        tenant.users -= 1
        if tenant.users == 0:
            tenant.rest()
            if self._waiters:
                self.serve()
                self._mover.wake()
            elif resident.is_dead:
                self._mover.wake()
            else:
                self._mover.wake_before(tenant.expires_at)

    def serve(self) -> None:
        """Let in all who can be, and begin what the others need that takes no room from anybody."""
        for resident in self._residents.values():
            resident.outgrown = False
            if resident.shelf is not None:
                resident.shelf.closing = None
        for waiter in list(self._waiters):
            self._attend(waiter)
        for resident in self._residents.values():
            self._drop_unplaced(resident)
            resident.settle()

    def _attend(self, waiter: _Waiter) -> None:
        if waiter.granted.done():
            return
        model = waiter.model
        resident = self._residents.get(model.weights) or self._call_for(model)
        if resident.closed or resident.is_dead:
            return
        tenant = self._tenant(resident, model)
        tenant.stay(waiter.keep_alive)
        tenant.try_again()
        if resident.serves(model):
            self._waiters.remove(waiter)
            waiter.granted.set_result((resident, self._admit(resident, model, waiter.keep_alive)))
        elif resident.is_ready and model.adapter is not None:
            self._place(resident, model)

    def _call_for(self, model: Model) -> Resident:
        resident = self._residents[model.weights] = Resident(model.weights, model, self._terms)
        resident.fetching = asyncio.create_task(self._fetch(resident), name=f"fetch-{model.name.short}")
        return resident

    async def _fetch(self, resident: Resident) -> None:
        try:
            resident.model = await self._engines.fetch(resident.model)
        except BaseException as error:
            if _is_cancelled():
                raise
            self.fail(resident, error)
        else:
            resident.learn()
        finally:
            resident.fetching = None
            self._mover.wake()

    def place_all(self, resident: Resident) -> None:
        """Also for those who gave up, as most try again."""
        for tenant in list(resident.tenants.values()):
            if tenant.asked.adapter is not None:
                self._place(resident, tenant.asked)

    def _place(self, resident: Resident, model: Model) -> None:
        """Have the model's adapter loaded into its engine, or see to it that it can be."""
        assert resident.engine is not None
        limits, shelf, name = resident.engine.adapters, resident.shelf, model.engine_name
        if limits is None or shelf is None or limits.rank < rank_of(model):
            self._outgrow(resident, model)
        elif shelf.has(name):
            pass  # there, or on its way, or about to make place
        elif not shelf.full:
            shelf.put_on(model)
        elif self.waits_for(resident, name):
            self._make_place(resident, model)

    def _make_place(self, resident: Resident, model: Model) -> None:
        assert resident.shelf is not None
        rival, used = resident.rival()
        if used:
            resident.shelf.closing = rival
        elif rival is not None:
            resident.drop_adapter(rival)
            resident.shelf.put_on(model, instead_of=rival)
        elif not resident.shelf.busy:
            error = EngineError(
                f"{model.name.short} cannot be loaded: all adapters that its base model's engine holds are pinned",
                "pin fewer adapters, or allow more with --max-loras",
            )
            self._adapter_moved(resident, model.engine_name, error)

    def _outgrow(self, resident: Resident, model: Model) -> None:
        """An engine that was started for such an adapter and still does not take it never will."""
        assert resident.engine is not None
        limits = resident.engine.adapters
        if resident.rank < rank_of(model):
            resident.outgrown = True
        else:
            takes = f"only adapters of rank {limits.rank} or less" if limits else "no adapters"
            error = EngineError(
                f"{model.name.short}, of rank {rank_of(model)}, cannot be loaded: its base model's engine takes"
                f" {takes}",
                ("allow more with --max-lora-rank, or " if limits else "") + f"run `vllama merge {model.name.short}`",
            )
            self._adapter_moved(resident, model.engine_name, error)

    def adapter_moved(self, resident: Resident) -> Changed:
        """What a resident's shelf is to call."""
        return lambda name, error: self._adapter_moved(resident, name, error, serve=True)

    def _adapter_moved(
        self, resident: Resident, name: str, error: BaseException | None, *, serve: bool = False
    ) -> None:
        # An engine that died takes its adapters along: those who wait are served by its successor.
        if error is not None and not resident.is_dead:
            for tenant in resident.tenants_of(name):
                tenant.give_up()
            self._refuse_for(resident, error, name)
        if serve:
            self.serve()
        self._mover.wake()

    def _drop_unplaced(self, resident: Resident) -> None:
        """Names whose adapter found no place and that nobody waits for any more, or not here."""
        for tenant in resident.unplaced():
            if resident.closed or not self.waits_for(resident, tenant.asked.engine_name):
                resident.drop(tenant)

    def waits_for(self, resident: Resident, adapter: str | None = None) -> bool:
        """Whether somebody waits for the resident, or for an adapter on it."""
        return any(
            waiter.model.weights == resident.weights and adapter in (None, waiter.model.engine_name)
            for waiter in self._waiters
        )

    def waited_for(self) -> list[Model]:
        """What is waited for, in the order of those who wait."""
        return [waiter.model for waiter in self._waiters]

    def fail(self, resident: Resident, error: BaseException) -> None:
        """Tell all who wait for the resident why they do so in vain."""
        if resident.engine is None:
            self._residents.pop(resident.weights, None)
        self._refuse_for(resident, error)

    def succeed(self, resident: Resident) -> None:
        """Its engine ended so that one that can do more takes its place."""
        successor = self._residents.get(resident.weights) or self._call_for(resident.model)
        for tenant in resident.tenants.values():
            if tenant.pinned:
                self._tenant(successor, tenant.asked)

    def _refuse_for(self, resident: Resident, error: BaseException, adapter: str | None = None) -> None:
        name = resident.model.name.short
        if isinstance(error, VllamaError):
            logger.error("%s", error)
        else:
            logger.error("loading %s failed", name, exc_info=error)
            error = EngineError(f"loading {name} failed: {error!r}", "this is a fault of vllama's: report it")
        self.refuse(
            error,
            lambda model: model.weights == resident.weights and adapter in (None, model.engine_name),
        )

    def refuse(self, error: VllamaError, concerned: Callable[[Model], bool]) -> None:
        refused = [waiter for waiter in self._waiters if concerned(waiter.model)]
        self._waiters = [waiter for waiter in self._waiters if not concerned(waiter.model)]
        for waiter in refused:
            if not waiter.granted.done():
                waiter.granted.set_exception(error)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _closing() -> EngineError:
    return EngineError("the server is stopping", "send the request again")
