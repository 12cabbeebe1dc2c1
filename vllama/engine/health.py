"""Whether a ready engine lives: one that hangs is told from one that is busy, and from a gateway that is late itself.

`/health` alone says little. A server whose EngineCore was stopped answers it while every request hangs, and one that
reads a large image does not answer it for seconds. So the engine's processes are looked at as well: what state they are
in, and whether they use CPU time.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from vllama.engine.client import EngineClient, Health
from vllama.engine.kin import Process, kin, look_at, title

logger = logging.getLogger("vllama.engine")

REST_S = 0.3
PROBE_S = 0.5
"""How long `/health` may take. With `REST_S` before and `HUNG_S` in all, a hang is noticed within 2 s."""
HUNG_S = 1.5
PATIENCE_S = 60.0
"""For an engine that does not answer but works, and for one that answers but does not work on what it was asked."""
_LATE_S = 0.25
"""A probe that took so much longer than it may says nothing of the engine: the gateway, or the machine, stood still."""
_DIED = "its EngineCore died without a word: it may have been killed for want of memory, see `dmesg`"
_KIN_S = 3.0
_BUSY_TICKS = 4
"""Of 10 ms, in half a second: less an engine's processes use all together without doing anything."""
_IDLE_TICKS_PER_S = 3
"""The same for each of EngineCore and the workers, which look for work in between."""


@dataclass(frozen=True)
class Look:
    """What was seen of an engine.

    began, ended: when `/health` was asked, and answered or given up. waiting: requests that have not got a byte.
    answered: how many got a reply so far.
    """

    began: float
    ended: float
    health: Health
    processes: tuple[Process, ...] = ()
    waiting: int = 0
    answered: int = 0

    @property
    def says_nothing(self) -> bool:
        """Whether the gateway was late itself, or could not ask."""
        return self.health is Health.UNKNOWN or self.ended - self.began > PROBE_S + _LATE_S

    @property
    def stopped(self) -> frozenset[int]:
        return frozenset(process.pid for process in self.processes if process.state == "T")


@dataclass(frozen=True)
class Fault:
    """What is wrong with an engine. hung: it would go on for ever, and its log does not say why."""

    text: str
    hung: bool = True


class Judge:
    """Tells from one look after the other whether the engine is lost.

    is_overdue: whether it has not answered for longer than a healthy engine takes.
    """

    def __init__(self) -> None:
        self._before: Look | None = None
        self._unanswered_since: float | None = None
        self._quiet_since: float | None = None
        self._idle_since: Look | None = None
        self.is_overdue = False

    def see(self, look: Look) -> Fault | None:
        """What is wrong with it, if anything."""
        before, self._before = self._before, look
        if look.says_nothing:
            self._before = self._unanswered_since = self._quiet_since = self._idle_since = None
            return None
        if look.health is Health.DEAD:
            return Fault(_DIED, hung=False)
        if before is not None:
            if again := look.stopped & before.stopped:
                return Fault(f"it hung: {_named(look, again)} was stopped (SIGSTOP)")
            if look.health is before.health is Health.REFUSED:
                return Fault("its server stopped listening", hung=False)
        return self._silence(look, before) or self._idleness(look)

    def _silence(self, look: Look, before: Look | None) -> Fault | None:
        if look.health is Health.GOOD:
            self._unanswered_since = self._quiet_since = None
            self.is_overdue = False
            return None
        if self._unanswered_since is None:
            self._unanswered_since = look.began
        silent = look.ended - self._unanswered_since
        self.is_overdue = silent >= HUNG_S
        if _is_busy(look, before):
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = look.began
        if self._quiet_since is not None and look.ended - self._quiet_since >= HUNG_S:
            return Fault(f"it hung: it did not answer /health for {silent:.1f} s and did nothing meanwhile")
        return Fault(f"it hung: it did not answer /health for {silent:.0f} s") if silent >= PATIENCE_S else None

    def _idleness(self, look: Look) -> Fault | None:
        """Of EngineCore and the workers, while something was asked of them: they go by vLLM's own names for them."""
        then, core = self._idle_since, _core(look)
        if not core or not look.waiting:
            self._idle_since = None
        elif then is None or then.answered != look.answered or _has_worked(then, look):
            self._idle_since = look
        elif (idle := look.ended - then.ended) >= PATIENCE_S:
            return Fault(f"it hung: its processes did nothing for {idle:.0f} s while {look.waiting} requests waited")
        return None


def _is_busy(look: Look, before: Look | None) -> bool:
    """Whether its processes work, or want to: they use CPU time, wait for a CPU, or for a disk."""
    if before is None:
        return True  # as far as anybody knows
    ticks = {process.pid: process.ticks for process in before.processes}
    used = sum(process.ticks - ticks.get(process.pid, 0) for process in look.processes)
    return used >= _BUSY_TICKS or any(process.state in "RD" for process in look.processes)


def _core(look: Look) -> dict[int, int]:
    """The ticks of EngineCore and the workers."""
    named = (process for process in look.processes if process.name.startswith("VLLM::"))
    return {process.pid: process.ticks for process in named if not process.name.startswith("VLLM::API")}


def _has_worked(then: Look, now: Look) -> bool:
    before, after = _core(then), _core(now)
    idle = 1 + _IDLE_TICKS_PER_S * (now.ended - then.ended)
    return before.keys() != after.keys() or any(after[pid] - before[pid] > idle for pid in after)


def _named(look: Look, pids: frozenset[int]) -> str:
    process = next(process for process in look.processes if process.pid in pids)
    return f"process {process.pid} ({title(process)})"


class HealthWatch:
    """Looks at one engine again and again.

    name: for the log. is_awake: whether it is ready; a sleeping engine is not asked, one that starts has a deadline of
    its own. found: told the engine's processes from time to time, in a thread.
    """

    def __init__(
        self,
        name: str,
        session: int,
        client: EngineClient,
        is_awake: Callable[[], bool],
        found: Callable[[list[Process]], None] = lambda _: None,
    ) -> None:
        self._name = name
        self._session = session
        self._client = client
        self._is_awake = is_awake
        self._found = found
        self._pids: tuple[int, ...] = ()
        self._looks_again = 0.0

    async def until_lost(self, ending: asyncio.Event) -> Fault | None:
        """Return what is wrong with the engine as soon as something is; None once it is `ending` by itself."""
        self._client.fate.watched = True
        looking = asyncio.create_task(self._look_on(), name=f"engine-health-{self._session}")
        ended = asyncio.create_task(ending.wait())
        try:
            await asyncio.wait({looking, ended}, return_when=asyncio.FIRST_COMPLETED)
            return None if ended.done() else looking.result()
        finally:
            for task in (looking, ended):
                task.cancel()
            await asyncio.wait({looking, ended})

    async def _look_on(self) -> Fault:
        fate, judge, rest, was_awake = self._client.fate, Judge(), REST_S, False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await fate.doubted.wait()
            fate.doubted.clear()
            if self._is_awake() and not was_awake:
                self._looks_again = 0.0  # not all of them were there from the beginning
            was_awake = self._is_awake()
            await self._refresh()
            look = await self._look() if self._is_awake() else None
            if look is None or not self._is_awake():
                judge, rest = Judge(), REST_S  # what became of it is told once its processes have ended, or not at all
                continue
            if fault := self._tell(judge, look):
                return fault
            if look.health is Health.GOOD and not look.stopped and not fate.doubted.is_set():
                fate.affirm()
            # One that took its whole time to fall silent is asked again at once.
            rest = REST_S if look.health is Health.GOOD else max(0.0, REST_S - (look.ended - look.began))

    def _tell(self, judge: Judge, look: Look) -> Fault | None:
        was_overdue = judge.is_overdue
        fault = judge.see(look)
        if judge.is_overdue and not was_overdue and not fault:
            logger.warning("%s: its engine does not answer for now, though it is at work", self._name)
        return fault

    async def _refresh(self) -> None:
        if time.monotonic() >= self._looks_again:
            with contextlib.suppress(OSError):  # no file can be opened: those that are known have to do
                self._pids = await asyncio.to_thread(self._find)
            self._looks_again = time.monotonic() + _KIN_S

    def _find(self) -> tuple[int, ...]:
        processes = kin(self._session)
        self._found(processes)
        return tuple(process.pid for process in processes)

    async def _look(self) -> Look:
        began = time.monotonic()
        health = await self._client.health(PROBE_S)
        ended = time.monotonic()
        return Look(began, ended, health, tuple(look_at(self._pids)), self._client.waiting, self._client.answered)
