"""Many clients that ask for random models, with room for a few: who is served by what, and what is shown meanwhile."""

import asyncio
import collections
import math
import random

import pytest

from tests.scheduling.conftest import Clock, Make
from tests.scheduling.plain import A, B, C, Engine, Engines, adapter, until
from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.models.model import Model
from vllama.scheduling.local import LocalScheduler
from vllama.scheduling.plan import AdapterLimits

MODELS = (A, B, C, adapter("x", "a"), adapter("y", "a"))
CLIENTS, REQUESTS = 16, 30


class Checked:
    """Checks at each thing that happens to an engine, and within each request."""

    def __init__(self, scheduler: LocalScheduler, engines: Engines, room: int) -> None:
        self.scheduler, self.engines, self.room = scheduler, engines, room
        self.served: collections.Counter[Engine] = collections.Counter()
        self.faults: list[str] = []
        engines.check = self.at

    def at(self, event: str) -> None:
        """What is raised here would count as the engine's failure."""
        try:
            self.check(event)
        except AssertionError as fault:
            self.faults.append(f"{event}: {fault}")

    def check(self, event: str) -> None:
        what, name = event.split()
        awake = [engine for engine in self.engines.alive if engine.state is not State.ASLEEP]
        assert len({engine.name for engine in self.engines.alive}) == len(self.engines.alive), "two for one need"
        assert self.room == 0 or len(awake) <= self.room
        assert sum(engine.state is State.STARTING for engine in awake) <= 1
        if what in ("start", "wake"):
            assert any(waiter.model.weights == name for waiter in self.scheduler._waiters), "for nobody"
        self.shown()

    def shown(self) -> None:
        """Everything that is said to be loaded is, and everything that is loaded is shown."""
        shown = self.scheduler.loaded()
        names = [loaded.model.name for loaded in shown]
        assert len(set(names)) == len(names), "one entry for a name"
        engines = {engine.name: engine for engine in self.engines.alive}
        for loaded in shown:
            if loaded.state is State.READY:
                engine = engines[loaded.model.source]
                assert engine.state is State.READY
                assert loaded.model.adapter is None or loaded.model.engine_name in engine.held_adapters
        ready = {name for name, engine in engines.items() if engine.state is State.READY}
        assert ready <= {loaded.model.source for loaded in shown}

    async def request(self, model: Model, wobble: int) -> None:
        async with self.scheduler.acquire(model) as lease:
            (engine,) = (engine for engine in self.engines.alive if engine.name == model.source)
            self.served[engine] += 1
            assert lease.client == engine.name  # type: ignore[comparison-overlap]
            assert lease.model.name == model.name
            for _ in range(wobble):
                assert engine.state is State.READY
                assert model.adapter is None or lease.model.engine_name in engine.held_adapters
                await asyncio.sleep(0)
            self.shown()


@pytest.mark.parametrize(
    ("room", "slots", "can_sleep"),
    [(1, 2, False), (1, 1, False), (1, 2, True), (2, 1, False), (2, 1, True), (0, 1, False)],
)
async def test_random_requests(make: Make, engines: Engines, room: int, slots: int, can_sleep: bool) -> None:
    chance = random.Random(room)
    engines.can_sleep, engines.limits = can_sleep, AdapterLimits(slots, 16)
    checked = Checked(make(max_loaded=room), engines, room)

    async def client() -> None:
        for _ in range(REQUESTS):
            await checked.request(chance.choice(MODELS), chance.randrange(8))

    async with asyncio.timeout(20), asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())
    assert checked.faults == []
    engines.check = lambda event: None
    assert sum(checked.served.values()) == CLIENTS * REQUESTS
    assert set(checked.served) == set(engines.made), "each that was started served somebody"
    loads = sum(event.startswith(("start", "wake")) for event in engines.events)
    assert loads <= (3 if room == 0 else CLIENTS * REQUESTS / 5)


async def test_nobody_starves(make: Make, engines: Engines) -> None:
    """Those who ask for what is loaded go on doing so; those who ask for another get their turn."""
    scheduler = make(max_loaded=1)
    done: list[str] = []

    async def busy() -> None:
        while len(done) < 3:
            async with scheduler.acquire(A):
                for _ in range(5):
                    await asyncio.sleep(0)

    async def other(model: Model) -> None:
        async with scheduler.acquire(model):
            done.append(model.source)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(busy())
            await asyncio.sleep(0)
        for model in (B, C, B):
            tasks.create_task(other(model))
    assert sorted(done) == ["b", "b", "c"]
    assert sum(event.startswith("start") for event in engines.events) <= 6


@pytest.mark.parametrize("seed", range(4))
async def test_chaos(make: Make, engines: Engines, clock: Clock, seed: int) -> None:
    """Clients give up, engines die, things fail: what is served is right, and in the end all comes to rest."""
    chance = random.Random(seed)
    engines.can_sleep, engines.limits = seed % 2 == 0, AdapterLimits(1 + seed // 2, 16)
    scheduler = make(keep_alive=0.0, max_loaded=1 + seed % 3, max_queue=50)
    for event in ("start", "sleep", "wake", "load", "unload"):
        engines.failures[event] = [EngineError("odd") if chance.random() < 0.1 else None for _ in range(1000)]

    async def wobble() -> None:
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)

    async def request() -> None:
        model = chance.choice(MODELS)
        async with scheduler.acquire(model, chance.choice((None, 0.0, math.inf))) as lease:
            (engine,) = (engine for engine in engines.alive if engine.name == model.source)
            assert lease.client == engine.name  # type: ignore[comparison-overlap]
            await wobble()
            assert engine.state in (State.READY, State.FAILED), "taken away from under its user"
            assert model.adapter is None or model.engine_name in engine.held_adapters
            if chance.random() < 0.03:
                engine.die()

    tasks = []
    for _ in range(600):
        tasks.append(asyncio.create_task(request()))
        clock.ahead += 10
        await wobble()
        if chance.random() < 0.3:
            chance.choice(tasks).cancel()
        if chance.random() < 0.1:
            scheduler.unload(chance.choice(MODELS))
    while len(scheduler._waiters):
        await clock.skip(10)
    _, hanging = await asyncio.wait(tasks, timeout=10)
    assert not hanging
    outcomes = [task.exception() for task in tasks if not task.cancelled()]
    ends = [EngineError(f"the engine of {name} was lost: killed: buy memory") for name in "abc"]
    assert {repr(outcome) for outcome in outcomes} <= {repr(None), repr(EngineError("odd")), *map(repr, ends)}
    assert len([outcome for outcome in outcomes if outcome is None]) > 200
    for model in MODELS:
        scheduler.unload(model)
    await until(lambda: not engines.alive)
    assert scheduler.loaded() == []
