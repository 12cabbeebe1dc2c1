"""Moves engines in and out of memory, one thing at a time.

vLLM measures the free memory while it starts: what another engine takes or gives back meanwhile would spoil that.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.scheduling.engines import Engine, Engines
from vllama.scheduling.memory import FreeMemory
from vllama.scheduling.plan import Demand
from vllama.scheduling.queue import Queue
from vllama.scheduling.resident import Resident
from vllama.scheduling.room import Drain, Evict, Start, next_step, no_room

logger = logging.getLogger("vllama.scheduler")

_LONGEST_SLEEP_S = 86400.0
_LOOK_AGAIN_S = 10.0
"""For room for what comes back by itself: others than our engines may have taken it."""


class Mover:
    """One task, alive as long as there is an engine or anybody who waits.

    residents: shared with the queue, which adds them as they are asked for. max_loaded: as the scheduler's.
    """

    def __init__(self, engines: Engines, residents: dict[str, Resident], queue: Queue, max_loaded: int) -> None:
        self._engines = engines
        self._residents = residents
        self._queue = queue
        self._max_loaded = max_loaded
        self._memory = FreeMemory(engines)
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._looks_again = math.inf  # by the loop's clock; inf as long as the mover does something
        self._draining = False
        self._closed = False

    @property
    def is_resting(self) -> bool:
        return self._task is None or self._task.done()

    def wake(self) -> None:
        """Look again at what is to be done."""
        self._changed.set()
        if self.is_resting and not self._closed:
            self._task = asyncio.create_task(self._move(), name="scheduler")

    def wake_before(self, time: float) -> None:
        """Look again at that time of the loop's clock, or earlier."""
        if time < self._looks_again:
            self.wake()

    def drain(self) -> None:
        """Give up what is being loaded."""
        self._draining = True
        self._changed.set()

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _move(self) -> None:
        while not self._closed and self._has_work():
            self._changed.clear()
            for resident in self._residents.values():
                resident.tick()
            wanted = self._next_to_load()
            if wanted is None:
                self._reopen()
            self._queue.serve()
            if (going := self._next_to_go()) is not None:
                outgrown = going.outgrown
                await self._remove(going)
                if outgrown:
                    self._queue.succeed(going)
            elif wanted is not None:
                if not await self._load(wanted):
                    await self._pause()
            elif (returning := self._next_to_return()) is not None:
                await self._bring_back(returning)
            else:
                await self._pause()
        await asyncio.gather(*map(self._remove, list(self._residents.values())))

    def _has_work(self) -> bool:
        if not self._draining:
            self._queue.call_warm()
        return bool(self._residents or self._queue.waited_for())

    def _reopen(self) -> None:
        for resident in self._residents.values():
            resident.closed = False

    async def _pause(self) -> None:
        """Until something changes, or the next name's time is up."""
        for resident in self._residents.values():
            if resident.is_ready:
                resident.expire_some()
        now = asyncio.get_running_loop().time()
        tenants = (tenant for resident in self._residents.values() for tenant in resident.tenants.values())
        expiries = (tenant.expires_at for tenant in tenants if not tenant.has_expired)
        looks = (resident.looks_again for resident in self._residents.values() if resident.looks_again)
        self._looks_again = min((*expiries, *looks), default=math.inf)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(self._looks_again - now, _LONGEST_SLEEP_S)):
                    await self._changed.wait()
        finally:
            self._looks_again = math.inf

    def _next_to_go(self) -> Resident | None:
        waited = {model.weights for model in self._queue.waited_for()}
        for resident in self._residents.values():
            if resident.must_go(waited=resident.weights in waited, pressed=bool(waited), draining=self._draining):
                return resident
        return None

    def _next_to_load(self) -> Resident | None:
        """What the one waits for who came first of those for whom something can be done."""
        for model in self._queue.waited_for():
            resident = self._residents.get(model.weights)
            if resident is not None and resident.can_be_loaded:
                return resident
        return None

    def _next_to_return(self) -> Resident | None:
        """What is to be there though nobody waits for it."""
        if self._draining:
            return None
        for resident in self._residents.values():
            if resident.returns and resident.can_be_loaded and not resident.looks_again:
                return resident
        return None

    async def _bring_back(self, resident: Resident) -> None:
        """Load what nobody waits for, if that takes nothing from anybody."""
        others = [other for other in self._residents.values() if other is not resident]
        step, reason = None, "others have its room"
        try:
            demand, free = await self._measure(resident)
        except Exception as error:
            reason = str(error)
        else:
            demand = resident.modest(demand)
            step = next_step(demand, free, others, self._max_loaded) if free >= demand.wanted else None
        if self._is_pressed() or not resident.returns:
            return
        if isinstance(step, Start):
            await self._bring_up(resident, step.share)
        else:
            self._put_off(resident, reason)

    def _put_off(self, resident: Resident, reason: str) -> None:
        name = resident.model.name.short
        if not resident.persists:
            logger.info("%s: not loaded again before it is asked for: %s", name, reason)
            self._residents.pop(resident.weights)
        else:
            if not resident.crowded:
                logger.info("%s: loaded again when there is room: %s", name, reason)
            resident.put_off(_LOOK_AGAIN_S)
        self._queue.noted()

    async def _load(self, resident: Resident) -> bool:
        """Do the next thing for the resident; False where that is to wait for those who use another."""
        model = resident.model_to_start
        others = [other for other in self._residents.values() if other is not resident]
        try:
            demand, free = await self._measure(resident)
        except Exception as error:
            self._queue.fail(resident, error, held=False)
            return True
        if not self._is_waited_for(resident):
            return True
        step = next_step(demand, free, others, self._max_loaded)
        match step:
            case Start(share):
                await self._bring_up(resident, share)
            case Evict(victim):
                await self._evict(victim)
            case Drain(victim):
                return self._close(victim, resident)
            case None if resident.engine is not None:
                await self._remove(resident)  # started anew, it may do with less
            case None:
                self._queue.fail(resident, no_room(model, demand, free, others, self._max_loaded), held=False)
        return True

    async def _measure(self, resident: Resident) -> tuple[Demand, int]:
        demand, resident.found = await self._memory.measure(resident, lambda: self._draining)
        return demand, resident.found

    def _close(self, victim: Resident, wanted: Resident) -> bool:
        """Have the victim finish what it has, and what was asked of it before; whether that changed anything.

        Those who wait for an adapter on it would otherwise soon have it loaded again.
        """
        was_closed, waited = victim.closed, [model.weights for model in self._queue.waited_for()]
        victim.closed = victim.weights not in waited[: waited.index(wanted.weights)]
        return was_closed and not victim.closed

    def _is_waited_for(self, resident: Resident) -> bool:
        return any(model.weights == resident.weights for model in self._queue.waited_for())

    def _is_worth_loading(self, resident: Resident) -> bool:
        """Also when all clients gave up, as most try again: until another model is asked for, or this one unloaded."""
        if self._is_waited_for(resident):
            return True
        return not self._draining and resident.keep_alive > 0 and not self._is_pressed()

    def _is_pressed(self) -> bool:
        """Whether somebody waits for whom something can be done."""
        if self._next_to_load() is not None:
            return True
        waited = (self._residents.get(model.weights) for model in self._queue.waited_for())
        return any(resident is not None and resident.is_dead for resident in waited)

    async def _bring_up(self, resident: Resident, share: int | None) -> None:
        self._reopen()  # whoever was to make room for this one need not any more
        self._queue.serve()
        name, began = resident.model.name.short, time.monotonic()
        wakes = resident.engine is not None
        if not wakes:
            self._queue.started(resident)
        try:
            engine = resident.engine or resident.install(self._engines, share)
        except Exception as error:
            self._queue.fail(resident, error)
            return
        if wakes:
            logger.info("%s: waking its engine", name)
        else:
            logger.info("%s: starting its engine (log: %s)", name, engine.log_path)
        self._queue.noted()
        loading = asyncio.create_task(engine.wake() if wakes else engine.start(), name=f"load-{name}")
        if not await self._finish(loading, lambda: self._is_worth_loading(resident)):
            logger.info("%s: not loaded, nobody waits for it any more", name)
            await self._give_up(resident, wakes=wakes)
        elif (failure := _error_of(loading)) is None:
            logger.info("%s: ready after %.1f s", name, time.monotonic() - began)
            self._open(resident, engine)
        elif wakes:
            logger.warning("%s: its engine did not wake up and is started anew: %s", name, failure)
            await self._remove(resident)
        else:
            self._residents.pop(resident.weights)
            self._queue.fail(resident, failure)

    async def _finish(self, change: "asyncio.Task[None]", is_worth_while: Callable[[], bool]) -> bool:
        """Wait for the end of a change to an engine; end it early, and return False, where it is for nothing now."""
        change.add_done_callback(lambda _: self._changed.set())
        while not change.done() and is_worth_while():
            self._changed.clear()
            await self._changed.wait()
        if change.done():
            return True
        change.cancel()
        await asyncio.wait({change})
        return False

    async def _give_up(self, resident: Resident, *, wakes: bool) -> None:
        returns = resident.returns
        if wakes or resident.state is not State.FAILED:
            await self._remove(resident)
        else:
            self._residents.pop(resident.weights)  # a start that was cancelled cleaned up after itself
        if returns and not self._draining:
            self._queue.follow(resident)
        self._queue.noted()

    def _open(self, resident: Resident, engine: Engine) -> None:
        resident.open(self._queue.adapter_moved(resident))
        if resident.watch is None:
            resident.watch = asyncio.create_task(engine.ended.wait(), name=f"watch-{resident.model.name.short}")
            resident.watch.add_done_callback(lambda _: self._ended())
        self._queue.opened(resident)
        self._queue.place_all(resident)
        self._queue.serve()

    def _ended(self) -> None:
        """An engine, by itself or not."""
        self._queue.noted()
        self._changed.set()

    async def _evict(self, victim: Resident) -> None:
        engine = victim.engine
        if engine is not None and victim.state is State.READY and engine.can_sleep():
            logger.info("%s: putting its engine to sleep", victim.model.name.short)
            victim.closed = True
            falling = asyncio.create_task(engine.sleep(), name=f"sleep-{victim.model.name.short}")
            if await self._finish(falling, lambda: not self._draining):
                if (failure := _error_of(falling)) is None:
                    victim.closed, victim.slept = False, True
                    self._freed()
                    return
                logger.warning("%s: its engine did not go to sleep: %s", victim.model.name.short, failure)
        await self._remove(victim)

    async def _remove(self, resident: Resident) -> None:
        """Unload the resident. It is shown, and in its successor's way, until it is gone."""
        resident.closed = True
        lost = resident.opened and resident.is_dead
        if resident.state is State.READY:
            logger.info("%s: unloading", resident.model.name.short)
        if resident.opened and not resident.slept and not self._closed:
            await self._memory.expect(resident)
        resident.ending = True
        self._queue.noted()
        try:
            await resident.end()
        except EngineError as error:
            logger.error("%s: %s", resident.model.name.short, error)  # noqa: TRY400 - it says what is wrong
        except Exception:
            logger.exception("%s: stopping its engine failed", resident.model.name.short)
        finally:
            self._residents.pop(resident.weights, None)
            self._freed()
        if lost and not (self._draining or self._closed):
            self._queue.lost(resident)

    def _freed(self) -> None:
        """There may be room for what comes back by itself."""
        for resident in self._residents.values():
            resident.looks_again = 0.0
        self._queue.noted()


def _error_of(task: "asyncio.Task[None]") -> BaseException | None:
    """What a task that is done ended with; being cancelled, by what it waited for, is an error too."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()
