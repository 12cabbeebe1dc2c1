"""How the memory is given out to engines."""

import math

from vllama.engine.engine import Engine, State
from vllama.engine.footprint import CUDA_PROCESS, GIB
from vllama.engine.memory import Memory


class Budget:
    """What there is, what the engines are to have of it, and what they have taken so far.

    limit: in GiB, what all engines may take together, None for what is free. memory: as last looked at, None before.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = math.inf if limit is None else limit * GIB
        self._engines: list[Engine] = []
        self._planned = 0
        self._taken = 0
        self._asleep = 0
        self.memory: Memory | None = None

    def add(self, engine: Engine) -> None:
        self._engines = [*self._live(), engine]

    def look(self, memory: Memory) -> None:
        """Note what there is now. Blocks for some milliseconds: a thread's work."""
        awake = [engine for engine in self._live() if engine.state is not State.ASLEEP]
        self._planned = sum(engine.size for engine in awake)
        self._taken = sum(_taken(engine, memory) for engine in awake)
        self._asleep = (len(self._live()) - len(awake)) * CUDA_PROCESS
        self.memory = memory

    def most(self) -> int:
        """What all engines may take together, given what others than ours have of it."""
        assert self.memory is not None
        return int(min(self.memory.free + self._taken + self._asleep, self.memory.usable, self._limit))

    def free(self) -> int:
        """What is free now, less what engines have yet to take of their own."""
        assert self.memory is not None
        untaken = self._planned - self._taken
        return max(0, int(min(self.memory.free - untaken, min(self.memory.usable, self._limit) - self._planned)))

    def _live(self) -> list[Engine]:
        return [engine for engine in self._engines if not engine.gone]


def _taken(engine: Engine, memory: Memory) -> int:
    """On a GPU vLLM takes all of it while it starts; on a CPU its cache takes memory only as it is filled."""
    if memory.gpus:
        return 0 if engine.state is State.STARTING else engine.size
    return min(engine.size, engine.resident())
