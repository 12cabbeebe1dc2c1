"""Where the start of an engine is, read from what it logs."""

import enum
import re
import time
from collections.abc import Callable
from dataclasses import dataclass


class Phase(enum.StrEnum):
    """What a person wants to know of a load. The first three come before there is an engine."""

    DOWNLOADING = "downloading"
    WAITING = "waiting for room"
    RESTARTING = "starting again soon"
    IMPORTING = "importing"
    READING = "reading weights"
    COMPILING = "compiling"
    ALLOCATING = "allocating KV cache"
    CAPTURING = "capturing graphs"
    WARMING = "warming up"
    WAKING = "waking up"


_SIGNS = (
    (
        re.compile(
            r"Starting to load model |Loading model from scratch|Loading \S+ checkpoint shards|Loading \S+ using "
            r"|Multi-thread loading "
        ),
        Phase.READING,
    ),
    (
        re.compile(
            r"Starting torch\.compile|Warming up model for the compilation|for vLLM's torch\.compile$"
            r"|Directly load AOT compilation|Compile and warming up model |JIT kernel warmup (starting|\()"
            r"|Compiling \S+ kernels|DeepGEMM warmup|Running FlashInfer autotune"
        ),
        Phase.COMPILING,
    ),
    (
        re.compile(r"Available KV cache memory|KV cache size: |GiB .*for KV [Cc]ache|Profiling CUDA graph memory"),
        Phase.ALLOCATING,
    ),
    (re.compile(r"Capturing CUDA graphs|for CUDA graph capture"), Phase.CAPTURING),
    (re.compile(r"init engine \(profile, create kv cache, warmup model\) took"), Phase.WARMING),
)
"""How each phase begins, as the log of vLLM 0.32 tells it. Lines that only tell the end of something are no signs: what
comes next is not the same on all platforms, nor for all models."""

_STAGES = {Phase.READING: 1, Phase.COMPILING: 2, Phase.ALLOCATING: 2, Phase.CAPTURING: 2, Phase.WARMING: 3}
"""Later ones are not left for earlier ones. Those of the middle one may take turns: kernels are compiled before and
after the cache is there, and some graphs are captured only to see how large the cache may be."""

_BAR = re.compile(r": +\d+%(?: Completed |\|[^|]*)\| *(\d+)/(\d+) \[")
"""tqdm's: `Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:0…`, `…graphs:  34%|███▍  | 12/35 [00:…`."""

_STILL_WAITING = re.compile(
    r"No available shared memory broadcast block found|Waiting for \d+ local, |Avg prompt throughput: "
    r'|"GET /(health|metrics|ping) '
)
"""What is said again and again by those who wait, and would be by those who wait in vain."""


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
        bar = _BAR.search(text)
        counted = f"{bar[1]} of {bar[2]}" if bar else ""
        if _STILL_WAITING.search(text) or (bar and counted == self.detail):
            return
        self.changed_at = self._clock()
        phase = self._begun_by(text)
        if phase is not None:
            self.enter(phase)
            if bar:
                self.measure(int(bar[1]), int(bar[2]), counted)

    def _begun_by(self, text: str) -> Phase | None:
        """The phase that a line is from. Only a start is read so: later on a log holds what clients write."""
        if self.phase is None:
            return None
        found = next((phase for sign, phase in _SIGNS if sign.search(text)), None)
        return found if found and _STAGES[found] >= _STAGES.get(self.phase, 0) else None

    def measure(self, done: int, total: int, detail: str) -> None:
        """How much of the phase is done."""
        self.fraction, self.detail = (min(1.0, done / total) if total else None), detail
        self._note()

    def _note(self) -> None:
        self.changed_at = self._clock()
        self.on_change()
