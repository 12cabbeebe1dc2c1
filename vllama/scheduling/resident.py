"""An engine in memory, or on its way there, and the names under which it is used."""

import asyncio
import math
from dataclasses import dataclass, field, replace

from vllama.engine.engine import State
from vllama.engine.progress import Progress
from vllama.models.model import Model
from vllama.scheduling.engines import Engine, Engines
from vllama.scheduling.plan import Demand
from vllama.scheduling.scheduler import Lease
from vllama.scheduling.shelf import Changed, Shelf
from vllama.scheduling.tenant import Tenant, Terms, now


@dataclass(eq=False)
class Resident:
    """Weights in memory, or on their way there: fetched first, started when there is room.

    model: the one first asked for, with what is known since. opened: whether its engine was ever ready. closed: nobody
    is let in, as its memory is wanted, or changes hands. outgrown: nobody is let in, as an adapter wants more than the
    engine was started for. ending: its engine is being stopped. slept: so was its engine when it was last seen alive.

    progress: what comes before there is an engine. found: bytes of memory that were free before it. lost: bytes that
    the engine before it had, which was lost. again: it is a restart. delay: seconds before it begins. crowded: there
    was no room to start it for nobody. looks_again: when there may be some, by the loop's clock, 0 for now.
    """

    weights: str
    model: Model
    terms: Terms
    progress: Progress
    delay: float = 0.0
    tenants: dict[tuple[str, str], Tenant] = field(default_factory=dict)
    engine: Engine | None = None
    shelf: Shelf | None = None
    rank: int = 0
    fetching: asyncio.Task[None] | None = None
    watch: asyncio.Task[bool] | None = None
    opened: bool = False
    closed: bool = False
    outgrown: bool = False
    ending: bool = False
    slept: bool = False
    found: int = 0
    lost: int | None = None
    again: bool = False
    crowded: bool = False
    looks_again: float = 0.0
    since: float = field(default_factory=now)
    _marked: State = field(default=State.STARTING, init=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Short names of the models that it serves, or is to."""
        names = dict.fromkeys(tenant.asked.name.short for tenant in self.tenants.values())
        return tuple(names) or (self.model.name.short,)

    @property
    def state(self) -> State:
        if self.ending and not self.is_dead:
            return State.STOPPING
        return State.STARTING if self.engine is None else self.engine.state

    @property
    def is_fetched(self) -> bool:
        return self.fetching is None

    @property
    def is_dead(self) -> bool:
        return self.engine is not None and (self.engine.state is State.FAILED or self.engine.ended.is_set())

    @property
    def can_be_loaded(self) -> bool:
        waits = self.is_fetched if self.engine is None else self.state is State.ASLEEP
        return waits and not (self.closed or self.is_dead)

    @property
    def is_ready(self) -> bool:
        return self.opened and self.state is State.READY and not (self.closed or self.is_dead)

    @property
    def users(self) -> int:
        """Requests that it answers now."""
        return sum(tenant.users for tenant in self.tenants.values())

    @property
    def is_busy(self) -> bool:
        return any(tenant.users for tenant in self.tenants.values()) or (self.shelf is not None and self.shelf.busy)

    @property
    def is_pinned(self) -> bool:
        return any(tenant.pinned for tenant in self.tenants.values())

    @property
    def returns(self) -> bool:
        """Whether it is to be loaded, or woken, though nobody waits for it."""
        if any(tenant.warm for tenant in self.tenants.values()):
            return True
        return not self.slept and any(tenant.returns and tenant.has_time_left for tenant in self.tenants.values())

    @property
    def persists(self) -> bool:
        """Whether it goes on being so where others have its room."""
        return any(tenant.pinned or tenant.warm for tenant in self.tenants.values())

    @property
    def keep_alive(self) -> float:
        return max((tenant.keep_alive for tenant in self.tenants.values()), default=0.0)

    @property
    def has_expired(self) -> bool:
        return all(tenant.has_expired for tenant in self.tenants.values())

    def serves(self, model: Model) -> bool:
        """Whether the model can be used at once."""
        if not self.is_ready or self.outgrown or not self.holds(model):
            return False
        return model.adapter is None or self.shelf is None or self.shelf.closing != model.engine_name

    def holds(self, model: Model) -> bool:
        return model.adapter is None or (self.shelf is not None and model.engine_name in self.shelf.ready)

    def find(self, model: Model) -> Tenant | None:
        """The tenant of the model's name."""
        tenant = self.tenants.get(_key(model))
        if tenant is not None and tenant.asked is not model:
            tenant.asked, tenant.model = model, self._known(model)
        return tenant

    def take_in(self, model: Model) -> Tenant:
        pinned, warm = model.name.key in self.terms.pinned, model.name.key in self.terms.warm
        keep_alive = math.inf if pinned or warm else self.terms.keep_alive
        tenant = self.tenants[_key(model)] = Tenant(model, self._known(model), keep_alive, pinned, warm)
        return tenant

    def can_take_in(self, model: Model) -> bool:
        """Whether another name can be served, or will be, without taking anything from the others."""
        if model.adapter is None:
            return not (self.closed or self.is_dead)
        limits = self.engine.adapters if self.engine is not None else None
        if not self.is_ready or self.shelf is None or limits is None or limits.rank < rank_of(model):
            return False
        return self.shelf.has(model.engine_name) or not self.shelf.full

    def outlasting(self) -> list[Tenant]:
        """Those who are to be served again where its engine is lost: who were served, and have time left."""
        return [
            tenant
            for tenant in self.tenants.values()
            if tenant.warm or (tenant.has_time_left and (tenant.returns or (self.opened and tenant.was_served)))
        ]

    def succeed(self, other: "Resident") -> None:
        """Take the place of one that was lost, once its time has come."""
        for tenant in other.outlasting():
            self.take_in(tenant.asked).succeed(tenant)
        self.lost = other.engine.size if other.engine is not None else other.lost

    def _known(self, model: Model) -> Model:
        checkpoint = model.checkpoint or self.model.checkpoint
        name = model.engine_name if model.adapter or self.engine is None else self.engine.name
        return replace(model, checkpoint=checkpoint, engine_name=name)

    def learn(self) -> None:
        """Tell all tenants what is known of the weights and the engine by now."""
        for tenant in self.tenants.values():
            tenant.model = self._known(tenant.asked)

    @property
    def model_to_start(self) -> Model:
        """The one that asks most of the engine."""
        return max((tenant.model for tenant in self.tenants.values()), key=rank_of, default=self.model)

    async def demand(self, engines: Engines) -> Demand:
        """Its engine takes again what it took before it slept."""
        if self.engine is not None:
            return Demand.exactly(self.engine.size)
        return await engines.demand(self.model_to_start)

    def modest(self, demand: Demand) -> Demand:
        """What it is to have at least where nobody waits for it: one that was lost, no more than it had."""
        if self.lost is None:
            return demand
        return replace(demand, wanted=max(demand.minimum, min(demand.wanted, self.lost)))

    def install(self, engines: Engines, share: int | None) -> Engine:
        model = self.model_to_start
        self.engine, self.rank = engines.engine(model, share), rank_of(model)
        self.engine.progress.on_change = self.progress.on_change
        self.progress.enter(None)
        return self.engine

    def open(self, changed: Changed) -> None:
        """Its engine is ready: started, or woken."""
        assert self.engine is not None
        self.opened, self.slept, self.crowded = True, False, False
        for tenant in self.tenants.values():
            tenant.returns = False
        self.learn()
        if self.shelf is None and self.engine.adapters is not None:
            self.shelf = Shelf(self.engine, self.engine.adapters.slots, changed)

    async def end(self) -> None:
        """Stop all that is done for it, and its engine."""
        tasks = [task for task in (self.fetching, self.watch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.shelf is not None:
            await self.shelf.clear()
        if self.engine is not None:
            await self.engine.stop()

    def lease(self, tenant: Tenant) -> Lease:
        assert self.engine is not None
        return Lease(self.engine.client, tenant.model, self.engine.context_length)

    def unplaced(self) -> list[Tenant]:
        """Those whose adapter is not on the engine, nor on its way there, though the engine is ready."""
        if not self.opened or self.state is not State.READY:
            return []
        return [tenant for tenant in self.tenants.values() if not (tenant.failed or self.has_place_for(tenant.asked))]

    def has_place_for(self, model: Model) -> bool:
        return model.adapter is None or (self.shelf is not None and self.shelf.has(model.engine_name))

    def tenants_of(self, adapter: str) -> list[Tenant]:
        return [
            tenant for tenant in self.tenants.values() if tenant.asked.adapter and tenant.asked.engine_name == adapter
        ]

    def drop(self, tenant: Tenant) -> None:
        self.tenants = {key: other for key, other in self.tenants.items() if other is not tenant}

    def drop_adapter(self, adapter: str) -> None:
        for tenant in self.tenants_of(adapter):
            self.drop(tenant)

    def expire_some(self) -> None:
        """Let go of the names whose time is up, as long as others keep the engine."""
        for tenant in [tenant for tenant in self.tenants.values() if tenant.has_expired]:
            if not self.has_expired:
                self.drop(tenant)
                name = tenant.asked.engine_name
                if tenant.asked.adapter and self.shelf and not self.tenants_of(name):
                    self.shelf.take_off(name)

    def settle(self) -> None:
        """From now on the time of all counts that have what they came for and are not used."""
        for tenant in self.tenants.values():
            if tenant.users == 0 and not tenant.is_idle and self.serves(tenant.asked):
                tenant.rest()

    def rival(self) -> tuple[str | None, bool]:
        """The adapter to make place for another, the one least recently used, and whether somebody still uses it."""
        assert self.shelf is not None
        candidates = []
        for adapter in self.shelf.ready:
            tenants = self.tenants_of(adapter)
            if not any(tenant.pinned for tenant in tenants):
                used = any(tenant.users for tenant in tenants)
                last = max((tenant.idle_since or 0.0 for tenant in tenants), default=0.0)
                candidates.append((used, any(tenant.warm for tenant in tenants), last, adapter))
        used, _, _, rival = min(candidates, default=(False, False, 0.0, None))
        return rival, used

    def must_go(self, *, waited: bool, pressed: bool, draining: bool) -> bool:
        """Whether it is to be removed.

        waited: whether somebody waits for it. pressed: whether somebody waits for anything.
        """
        if self.engine is None:
            needless = draining or (not self.returns and (self.is_fetched or self.keep_alive <= 0))
            return needless and not waited
        if self.is_dead:
            return pressed or not self.is_busy
        return not self.is_busy and (self.outgrown or (self.has_expired and not waited))

    def put_off(self, seconds: float) -> None:
        """There is no room for it as long as nobody waits for it; there may be after that time."""
        self.crowded, self.looks_again = True, now() + seconds

    def tick(self) -> None:
        if self.looks_again <= now():
            self.looks_again = 0.0

    def mark(self) -> None:
        """Remember when it entered its state."""
        if (state := self.state) is not self._marked:
            self._marked, self.since = state, now()


def _key(model: Model) -> tuple[str, str]:
    """A name that changed its adapter is another tenant."""
    return model.name.key, model.engine_name if model.adapter else ""


def rank_of(model: Model) -> int:
    return model.adapter.rank if model.adapter else 0
