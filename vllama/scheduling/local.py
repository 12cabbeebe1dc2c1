"""Who is let in to which engine. Requests wait in the order in which they came, and share what they wait for."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

from vllama.changes import Changes
from vllama.engine.progress import Phase, Progress
from vllama.errors import EngineError, VllamaError
from vllama.models.model import Model
from vllama.overload import Bound
from vllama.scheduling.engines import Engines
from vllama.scheduling.failures import Failures, told
from vllama.scheduling.mover import Mover
from vllama.scheduling.placing import place
from vllama.scheduling.report import Report
from vllama.scheduling.resident import Resident
from vllama.scheduling.scheduler import Lease, Loaded
from vllama.scheduling.shelf import Changed
from vllama.scheduling.status import loss, report, shown
from vllama.scheduling.tenant import Tenant, Terms, now
from vllama.scheduling.waiters import Grant, Waiter, Waiters, closing

logger = logging.getLogger("vllama.scheduler")


class LocalScheduler:
    """Owns the engines.

    keep_alive: seconds, for requests that say nothing. max_queue: most requests waiting. max_requests: most of them in
    flight on one engine, those that wait for it included. max_loaded: most engines awake at once, 0 for as many as
    memory holds. pinned, warm: as `Terms` has them; warm names are kept so once they were asked for.

    Requests come and go and only note what they want; the mover acts on it. Downloads and adapters, which take no
    memory from anybody, have tasks of their own.
    """

    def __init__(
        self,
        engines: Engines,
        *,
        keep_alive: float,
        max_queue: int,
        max_requests: int = sys.maxsize,
        max_loaded: int = 0,
        pinned: frozenset[str] = frozenset(),
        warm: frozenset[str] = frozenset(),
    ) -> None:
        self._engines = engines
        self._terms = Terms(keep_alive, pinned, warm)
        self._residents: dict[str, Resident] = {}
        self._waiters = Waiters(max_queue)
        self.bound = Bound(max_requests, "max_requests_per_engine")
        self._warm: dict[str, Model] = {}
        self._failures = Failures(now)
        self._mover = Mover(engines, self._residents, self, max_loaded)
        self._draining = False
        self.changes = Changes()

    @contextlib.asynccontextmanager
    async def acquire(self, model: Model, keep_alive: float | None = None) -> AsyncIterator[Lease]:
        if self._draining:
            raise closing()
        resident = self._residents.get(model.weights)
        if resident is not None:
            self.bound.check(resident.users + self._waiters.count(model.weights))
        if resident is not None and resident.serves(model):
            tenant = self._admit(resident, model, keep_alive)
        else:
            resident, tenant = await self._wait_for(model, keep_alive)
        try:
            yield resident.lease(tenant)
        finally:
            self._leave(resident, tenant)

    def serves(self, model: Model) -> bool:
        resident = self._residents.get(model.weights)
        return resident is not None and resident.serves(model)

    def unload(self, model: Model) -> None:
        for tenant in self._tenants_named(model):
            tenant.stay(0.0)
            self._mover.wake()
        self.changes.note()

    def _tenants_named(self, model: Model) -> list[Tenant]:
        return [tenant for tenant in self._tenants() if tenant.asked.name.key == model.name.key]

    def _tenants(self) -> list[Tenant]:
        return [tenant for resident in self._residents.values() for tenant in resident.tenants.values()]

    def loaded(self) -> list[Loaded]:
        return [
            entry
            for resident in self._residents.values()
            for entry in shown(resident, waited=self._waiters.count(resident.weights) > 0)
        ]

    def reports(self) -> list[Report]:
        return [self._report(resident) for resident in self._residents.values()] + [
            failed for failed in self._failures.reports() if failed.weights not in self._residents
        ]

    def _report(self, resident: Resident) -> Report:
        weights = resident.weights
        waiting, restarts = self._waiters.count(weights), self._failures.restarts(weights)
        return report(resident, waiting, restarts, self._failures.error(weights))

    def noted(self) -> None:
        """Something about the residents changed."""
        for resident in self._residents.values():
            resident.mark()
        self.changes.note()

    def drain(self) -> None:
        self._draining = True
        self._waiters.refuse(closing())
        self._mover.drain()

    async def close(self) -> None:
        self.drain()
        await self._mover.close()

    async def _wait_for(self, model: Model, keep_alive: float | None) -> Grant:
        if (error := self._failures.held(model.weights)) is not None:
            raise error
        waiter = self._waiters.add(model, keep_alive)
        self._attend(waiter)
        self.changes.note()
        self._mover.wake()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if self._waiters.remove(waiter):
                self._withdrawn(waiter)
            elif not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._leave(*waiter.granted.result())  # granted and cancelled in one turn of the loop
            raise

    def _withdrawn(self, waiter: Waiter) -> None:
        if waiter.model.adapter is not None:
            self.serve()  # others may have made way for it
        self._mover.wake()
        self.changes.note()

    def _admit(self, resident: Resident, model: Model, keep_alive: float | None) -> Tenant:
        tenant = self._tenant(resident, model)
        tenant.stay(keep_alive)
        tenant.enter()
        self.changes.note()
        return tenant

    def _tenant(self, resident: Resident, model: Model) -> Tenant:
        tenant = resident.find(model)
        if tenant is None:
            for elsewhere in self._tenants_named(model):  # where the name led until now
                elsewhere.retire()
            tenant = resident.take_in(model)
        if model.name.key in self._terms.warm:
            self._warm[model.name.key] = model
        return tenant

    def _leave(self, resident: Resident, tenant: Tenant) -> None:
        tenant.users -= 1
        self.changes.note()
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
        for waiter in self._waiters:
            self._attend(waiter)
        for resident in self._residents.values():
            self._drop_unplaced(resident)
            resident.settle()

    def _attend(self, waiter: Waiter) -> None:
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

    def _call_for(self, model: Model, delay: float = 0.0) -> Resident:
        progress = Progress(now)
        progress.on_change = self.changes.note
        begun = Phase.WAITING if model.checkpoint is not None else Phase.DOWNLOADING
        progress.enter(Phase.RESTARTING if delay else begun)
        resident = self._residents[model.weights] = Resident(model.weights, model, self._terms, progress, delay)
        resident.fetching = asyncio.create_task(self._fetch(resident), name=f"fetch-{model.name.short}")
        return resident

    async def _fetch(self, resident: Resident) -> None:
        try:
            await asyncio.sleep(resident.delay)
            resident.delay = 0.0
            if resident.model.checkpoint is None:
                resident.progress.enter(Phase.DOWNLOADING)
            resident.model = await self._engines.fetch(resident.model, resident.progress)
        except BaseException as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            self.started(resident)
            self.fail(resident, error)
        else:
            resident.learn()
            resident.progress.enter(Phase.WAITING)
        finally:
            resident.fetching = None
            self._mover.wake()

    def place_all(self, resident: Resident) -> None:
        """Also for those who gave up, as most try again."""
        for tenant in list(resident.tenants.values()):
            if tenant.asked.adapter is not None:
                self._place(resident, tenant.asked)

    def _place(self, resident: Resident, model: Model) -> None:
        error = place(resident, model, waited=self.waits_for(resident, model.engine_name))
        if error is not None:
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
        return self._waiters.count(resident.weights, adapter) > 0

    def waited_for(self) -> list[Model]:
        return [waiter.model for waiter in self._waiters]

    def fail(self, resident: Resident, error: BaseException, *, held: bool = True) -> None:
        """Tell all who wait for the resident why they do so in vain.

        held: whether who asks again too soon is told the same; not where it depends on what else is loaded.
        """
        if resident.engine is None:
            self._residents.pop(resident.weights, None)
        refusal = self._refuse_for(resident, error)
        if self._residents.get(resident.weights) is not resident:
            self._failures.note(resident, refusal, held=held)
            if resident.outlasting():
                self._call_again(resident, self._failures.delay(resident.weights) if held else 0.0)
        self.noted()

    def lost(self, resident: Resident) -> None:
        """Its engine ended by itself: start another, or tell those who wait why there is none."""
        assert resident.engine is not None
        error = EngineError(loss(resident.engine))
        self._failures.note(resident, error)
        if resident.outlasting() or self.waits_for(resident):
            delay = self._failures.delay(resident.weights)
            if delay is None:
                self._waiters.refuse(error, resident.weights)
            self._call_again(resident, delay)
        self.noted()

    def _call_again(self, resident: Resident, delay: float | None) -> None:
        """Have a successor of a resident that was lost, in so many seconds; None: not before it is asked for."""
        name = resident.model.name.short
        if delay is None:
            logger.error("%s: not started again until it is asked for, as it failed too often", name)
        elif not self._draining:
            self.follow(resident, delay).again = True
            if delay:
                logger.info("%s: to be started again in %g s", name, delay)

    def follow(self, resident: Resident, delay: float = 0.0) -> Resident:
        """The successor of a resident that was lost, or gave way to those who waited."""
        successor = self._call_for(resident.model, delay)
        successor.succeed(resident)
        return successor

    def started(self, resident: Resident) -> None:
        """Somebody tries to: it counts whether it becomes ready or not."""
        if resident.again:
            self._failures.restarted(resident.weights)
        self.noted()

    def opened(self, resident: Resident) -> None:
        self._failures.forgive(resident.weights)
        self.noted()

    def call_warm(self) -> None:
        """Call for the names to be kept warm that are nowhere, but for those that failed."""
        present = {tenant.asked.name.key for tenant in self._tenants()}
        for key in self._warm.keys() - present:
            model = self._warm[key]
            resident = self._residents.get(model.weights)
            if resident is None and self._failures.error(model.weights) is None:
                self._call_for(model).take_in(model)
            elif resident is not None and resident.can_take_in(model):
                resident.take_in(model)
                resident.settle()
                if model.adapter is not None:
                    self._place(resident, model)

    def succeed(self, resident: Resident) -> None:
        """Its engine ended so that one that can do more takes its place."""
        successor = self._residents.get(resident.weights) or self._call_for(resident.model)
        for tenant in resident.tenants.values():
            if tenant.pinned or tenant.warm:
                self._tenant(successor, tenant.asked)

    def _refuse_for(self, resident: Resident, error: BaseException, adapter: str | None = None) -> VllamaError:
        """Gives what those who wait are told."""
        refusal = told(resident.model, error)
        self._waiters.refuse(refusal, resident.weights, adapter)
        return refusal
