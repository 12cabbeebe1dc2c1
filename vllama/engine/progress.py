"""Where the start of an engine is, read from what it logs."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass


class Phase(enum.StrEnum):
    """What a person wants to know of a cold start. The first two come before there is an engine."""

    DOWNLOADING = "downloading"
    WAITING = "waiting for room"
    IMPORTING = "importing"
    READING = "reading weights"
    COMPILING = "compiling"
    ALLOCATING = "allocating KV cache"
    CAPTURING = "capturing graphs"
    WARMING = "warming up"


@dataclass(frozen=True)
class Step:
    """A phase that is over, and the seconds it took."""

    phase: Phase
    seconds: float


class Progress:
    """The phases of one start.

    phase: the one it is in, None before the first and once it is ready. fraction: of it that is done, None where that
    is not known. detail: the same in words, like "3 of 8". steps: those that are over. changed_at: `clock()` when it
    last got on. on_change: called after each change.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entered_at = clock()
        self.phase: Phase | None = None
        self.fraction: float | None = None
        self.detail = ""
        self.steps: tuple[Step, ...] = ()
        self.changed_at = clock()
        self.on_change: Callable[[], None] = lambda: None

    def enter(self, phase: Phase | None) -> None:
        """Begin a phase, which ends the one before; None: all are over."""
        if phase is self.phase:
            return
        if self.phase is not None:
            self.steps += (Step(self.phase, self._clock() - self._entered_at),)
        self.phase, self.fraction, self.detail = phase, None, ""
        self._entered_at = self._clock()
        self._note()

    def read(self, text: str) -> None:
        """Take in a line of the engine's log, or the new state of one that overwrites itself."""
        self.changed_at = self._clock()

    def _note(self) -> None:
        self.changed_at = self._clock()
        self.on_change()
