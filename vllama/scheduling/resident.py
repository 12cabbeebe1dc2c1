"""An engine in memory, or on its way there, and the names under which it is used."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from vllama.engine.engine import State
from vllama.models.model import Model
from vllama.scheduling.engines import Engine, Engines
from vllama.scheduling.plan import Demand
from vllama.scheduling.report import Report
from vllama.scheduling.scheduler import Lease, Loaded
from vllama.scheduling.shelf import Changed, Shelf


@dataclass(frozen=True)
class Terms:
    """keep_alive: seconds, for names of whose time nothing was said. pinned: keys of names that are never unloaded."""

    keep_alive: float
    pinned: frozenset[str]


@dataclass(eq=False)
class Tenant:
    """A name in use on an engine.

    asked: the model as last asked for. model: the same with what is known since. idle_since: by the loop's clock, None
    while it is used or loads. failed: its adapter could not be loaded; the engine stays as long as it would have.
    """

    asked: Model
    model: Model
    keep_alive: float
    pinned: bool
    users: int = 0
    idle_since: float | None = None
    failed: bool = False

    @property
    def expires_at(self) -> float:
        """By the loop's clock, unless it is used before."""
        return math.inf if self.idle_since is None else self.idle_since + self.keep_alive

    @property
    def remaining(self) -> float:
        if self.idle_since is None:
            return self.keep_alive
        return max(0.0, self.expires_at - asyncio.get_running_loop().time())

    @property
    def is_idle(self) -> bool:
        return self.idle_since is not None

    @property
    def has_expired(self) -> bool:
        return self.is_idle and self.remaining <= 0

    def stay(self, keep_alive: float | None) -> None:
        if keep_alive is not None and not self.pinned:
            self.keep_alive = keep_alive

    def give_up(self) -> None:
        self.failed = True
        self.rest()

    def try_again(self) -> None:
        if self.failed:
            self.failed, self.idle_since = False, None

    def retire(self) -> None:
        self.pinned, self.keep_alive = False, 0.0

    def enter(self) -> None:
        self.users += 1
        self.idle_since = None

    def rest(self) -> None:
        self.idle_since = asyncio.get_running_loop().time()


@dataclass(eq=False)
class Resident:
    """Weights in memory, or on their way there: fetched first, started when there is room.

    model: the one first asked for, with what is known since. opened: whether its engine was ever ready. closed: nobody
    is let in, as its memory is wanted, or changes hands. outgrown: nobody is let in, as an adapter wants more than the
    engine was started for.
    """

    weights: str
    model: Model
    terms: Terms
    tenants: dict[tuple[str, str], Tenant] = field(default_factory=dict)
    engine: Engine | None = None
    shelf: Shelf | None = None
    rank: int = 0
    fetching: asyncio.Task[None] | None = None
    watch: asyncio.Task[bool] | None = None
    opened: bool = False
    closed: bool = False
    outgrown: bool = False

    @property
    def state(self) -> State:
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
        return waits and not self.closed and not self.is_dead

    @property
    def is_ready(self) -> bool:
        return self.opened and self.state is State.READY and not self.closed

    @property
    def is_busy(self) -> bool:
        return any(tenant.users for tenant in self.tenants.values()) or (self.shelf is not None and self.shelf.busy)

    @property
    def is_pinned(self) -> bool:
        return any(tenant.pinned for tenant in self.tenants.values())

    @property
    def keep_alive(self) -> float:
        return max((tenant.keep_alive for tenant in self.tenants.values()), default=0.0)

    @property
    def has_expired(self) -> bool:
        return all(tenant.has_expired for tenant in self.tenants.values())

    def serves(self, model: Model) -> bool:
        """Whether the model can be used at once."""
        if not self.is_ready or self.outgrown or not self._holds(model):
            return False
        return model.adapter is None or self.shelf is None or self.shelf.closing != model.engine_name

    def _holds(self, model: Model) -> bool:
        return model.adapter is None or (self.shelf is not None and model.engine_name in self.shelf.ready)

    def find(self, model: Model) -> Tenant | None:
        """The tenant of the model's name."""
        tenant = self.tenants.get(_key(model))
        if tenant is not None and tenant.asked is not model:
            tenant.asked, tenant.model = model, self._known(model)
        return tenant

    def take_in(self, model: Model) -> Tenant:
        pinned = model.name.key in self.terms.pinned
        keep_alive = math.inf if pinned else self.terms.keep_alive
        tenant = self.tenants[_key(model)] = Tenant(model, self._known(model), keep_alive, pinned)
        return tenant

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

    def install(self, engines: Engines, share: int | None) -> Engine:
        model = self.model_to_start
        self.engine, self.rank = engines.engine(model, share), rank_of(model)
        return self.engine

    def open(self, changed: Changed) -> None:
        """Its engine is ready: started, or woken."""
        assert self.engine is not None
        self.opened = True
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
        return Lease(self.engine.client, tenant.model, self.engine.context_length, self.engine)

    def unplaced(self) -> list[Tenant]:
        """Those whose adapter is not on the engine, nor on its way there, though the engine is ready."""
        if not self.opened or self.state is not State.READY:
            return []
        return [tenant for tenant in self.tenants.values() if not (tenant.failed or self._has_place_for(tenant.asked))]

    def _has_place_for(self, model: Model) -> bool:
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
                candidates.append((used, last, adapter))
        used, _, rival = min(candidates, default=(False, 0.0, None))
        return rival, used

    def must_go(self, *, waited: bool, pressed: bool, draining: bool) -> bool:
        """Whether it is to be removed.

        waited: whether somebody waits for it. pressed: whether somebody waits for anything.
        """
        if self.engine is None:
            return not waited and (self.is_fetched or draining or self.keep_alive <= 0)
        if self.is_dead:
            return pressed or not self.is_busy
        return not self.is_busy and (self.outgrown or (self.has_expired and not waited))

    def shown(self) -> Iterator[Loaded]:
        context_length, size = (self.engine.context_length, self.engine.size) if self.engine else (None, 0)
        for tenant in self.tenants.values():
            if (state := self._state_of(tenant)) is not None:
                going = self.closed or state is State.STOPPING
                yield Loaded(tenant.model, 0.0 if going else tenant.remaining, context_length, state, size)

    def report(self) -> Report:
        names = tuple(dict.fromkeys(tenant.asked.name.short for tenant in self.tenants.values()))
        return Report(self.weights, names or (self.model.name.short,), self.state)

    def _state_of(self, tenant: Tenant) -> State | None:
        """As clients are told; None where it is not in memory, nor will be by itself."""
        if self.is_dead or tenant.failed or self.state is State.ASLEEP:
            return None
        if self.state is not State.READY:
            return self.state
        if self._holds(tenant.asked):
            return State.READY
        return State.STARTING if self._has_place_for(tenant.asked) or not self.closed else None


def _key(model: Model) -> tuple[str, str]:
    """A name that changed its adapter is another tenant."""
    return model.name.key, model.engine_name if model.adapter else ""


def rank_of(model: Model) -> int:
    return model.adapter.rank if model.adapter else 0
