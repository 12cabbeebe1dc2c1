"""Plain objects for engines, and users that come and go when a test says so."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllama.engine.engine import State
from vllama.engine.progress import Progress
from vllama.errors import EngineError
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.plan import AdapterLimits, Demand
from vllama.scheduling.scheduler import Lease

INF = float("inf")


@dataclass(frozen=True)
class Adapter:
    path: Path
    rank: int = 8


def base(name: str) -> Model:
    return Model(parse(name), source=name, engine_name=name)


def adapter(name: str, base: str, rank: int = 8) -> Model:
    return Model(parse(name), source=base, engine_name=name, adapter=Adapter(Path(name), rank))


A, B, C, D = (base(name) for name in "abcd")


class Engine:
    """What the scheduler drives. What is in `held` waits until it is released; what is in `failures` fails."""

    def __init__(self, model: Model, share: int | None, engines: "Engines") -> None:
        self.client: Any = model.source
        self.name, self.context_length, self.log_path = model.source, 4096, Path("log")
        self.size = engines.demands.get(model.source, engines.demand_of_all).minimum if share is None else share
        self.share, self.model, self.taken = share, model, self.size
        self.state = State.STARTING
        self.adapters = engines.limits
        self.progress, self.failure, self.fast, self.pid = Progress(), "", False, 100 + len(engines.made)
        self.ended = asyncio.Event()
        self.held_adapters: set[str] = set()
        self._engines = engines

    async def start(self) -> None:
        try:
            await self._engines.step(f"start {self.name}")
        except BaseException:
            self.state = State.FAILED
            await self.stop()
            raise
        self.state = State.READY

    async def stop(self) -> None:
        if self.state in (State.READY, State.ASLEEP):
            self.state = State.STOPPING
        await self._engines.step(f"stop {self.name}", after=True)
        self._engines.alive.discard(self)

    def can_sleep(self) -> bool:
        return self._engines.can_sleep

    async def sleep(self) -> None:
        await self._engines.step(f"sleep {self.name}")
        self.state, self.taken = State.ASLEEP, 0

    async def wake(self) -> None:
        await self._engines.step(f"wake {self.name}")
        self.state, self.taken = State.READY, self.size

    async def load_adapter(self, name: str, path: Path) -> None:
        assert (self.state, path.name) == (State.READY, name), "asked while it cannot answer"
        assert self.adapters is not None
        await self._engines.step(f"load {name}")
        assert name not in self.held_adapters, "loaded twice"
        self.held_adapters.add(name)
        assert len(self.held_adapters) <= self.adapters.slots

    async def unload_adapter(self, name: str) -> None:
        assert self.state is State.READY
        self.held_adapters.remove(name)
        await self._engines.step(f"unload {name}")

    def die(self, failure: str = "killed: buy memory") -> None:
        self.state, self.failure = State.FAILED, failure
        self.ended.set()


class Engines:
    """made: every engine, in order. events: what happened to them. held: first words of what does not happen at once.

    failures: what the next such thing raises, None for nothing. memory: bytes of the machine. late: bytes that are not
    yet back from engines that ended, at each further look.
    check: called at each event.
    """

    def __init__(self) -> None:
        self.made: list[Engine] = []
        self.alive: set[Engine] = set()
        self.events: list[str] = []
        self.held: set[str] = set()
        self.failures: dict[str, list[BaseException | None]] = {}
        self.memory = 10**9
        self.late: list[int] = []
        self.demand_of_all = Demand.exactly(1)
        self.demands: dict[str, Demand] = {}
        self.limits: AdapterLimits | None = AdapterLimits(slots=2, rank=16)
        self.can_sleep = False
        self.checkpoints: dict[str, Any] = {}
        self.check: Callable[[str], None] = lambda event: None
        self._released = asyncio.Event()

    async def step(self, event: str, *, after: bool = False) -> None:
        """after: tell of it once it has happened."""
        if not after:
            self._note(event)
        await self._hold(event)
        if after:
            self._note(event)

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.check(event)

    async def _hold(self, event: str) -> None:
        keys = (event, event.split()[0])
        while self.held.intersection(keys):
            await self._released.wait()
        for key in keys:
            failures = self.failures.get(key)
            if failures and (failure := failures.pop(0)) is not None:
                raise failure

    def release(self, *what: str) -> None:
        """Let what is named go on, or everything."""
        self.held = self.held - set(what) if what else set()
        self._released.set()
        self._released = asyncio.Event()

    async def fetch(self, model: Model, progress: Progress) -> Model:
        progress.measure(3, 4, "3 of 4 GB")
        await self._hold(f"fetch {model.source}")
        return replace(model, checkpoint=self.checkpoints.get(model.source))

    async def demand(self, model: Model) -> Demand:
        await self._hold(f"demand {model.source}")
        return self.demands.get(model.source, self.demand_of_all)

    async def free(self) -> int:
        await asyncio.sleep(0)
        await self._hold("free")
        late = self.late.pop(0) if self.late and len(self.alive) < len(self.made) else 0
        return self.memory - late - sum(engine.taken for engine in self.alive)

    def engine(self, model: Model, share: int | None) -> Engine:
        engine = Engine(model, share, self)
        self.made.append(engine)
        self.alive.add(engine)
        return engine

    @property
    def last(self) -> Engine:
        return self.made[-1]


class User:
    """A request that holds its lease until `leave` is called, or it is cancelled."""

    def __init__(self, scheduler: LocalScheduler, model: Model, keep_alive: float | None = None) -> None:
        self.lease: Lease | None = None
        self.may_leave = asyncio.Event()
        self.task = asyncio.create_task(self._run(scheduler, model, keep_alive))

    async def _run(self, scheduler: LocalScheduler, model: Model, keep_alive: float | None) -> None:
        async with scheduler.acquire(model, keep_alive) as self.lease:
            await self.may_leave.wait()

    async def entered(self) -> Any:
        """Wait until it has its lease; gives the engine's name."""
        await until(lambda: self.lease is not None or self.task.done())
        if self.lease is None:
            self.task.result()
        assert self.lease is not None
        return self.lease.client

    async def leave(self) -> None:
        self.may_leave.set()
        await asyncio.wait_for(self.task, 5)

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task}, timeout=5)
        assert self.task.cancelled()

    async def failure(self) -> BaseException:
        await asyncio.wait({self.task}, timeout=5)
        error = self.task.exception()
        assert error is not None
        return error


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)


async def settle() -> None:
    """Let everything happen that can without time going on."""
    for _ in range(40):
        await asyncio.sleep(0)


async def once(scheduler: LocalScheduler, model: Model, keep_alive: float | None = None) -> Lease:
    async with asyncio.timeout(5), scheduler.acquire(model, keep_alive) as lease:
        return lease


def names(scheduler: LocalScheduler) -> list[str]:
    return [loaded.model.name.model for loaded in scheduler.loaded()]


def users_of(scheduler: LocalScheduler) -> int:
    residents = scheduler._residents.values()
    return sum(tenant.users for resident in residents for tenant in resident.tenants.values())


def closing(error: BaseException) -> bool:
    return isinstance(error, EngineError) and str(error) == "the server is stopping: send the request again"
