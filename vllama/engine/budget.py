"""How the memory is given out to engines."""

import math

from vllama.engine.engine import Engine, State
from vllama.engine.footprint import GIB
from vllama.engine.memory import Memory


class Budget:
    """How the memory is given out. limit: in GiB, what all engines may take together, None for what is free."""

    def __init__(self, limit: float | None) -> None:
        self._limit = math.inf if limit is None else limit * GIB
        self._engines: list[Engine] = []

    def add(self, engine: Engine) -> None:
        self._engines = [*self._live(), engine]

    def most(self, memory: Memory) -> int:
        """What all engines may take together, given what others than ours have of it."""
        return int(min(memory.free + self._taken(), memory.usable, self._limit))

    def free(self, memory: Memory) -> int:
        """What is free now, less what starting engines have yet to take."""
        starting = sum(engine.size for engine in self._live() if engine.state is State.STARTING)
        return max(0, int(min(memory.free - starting, min(memory.usable, self._limit) - self._taken())))

    def _taken(self) -> int:
        return sum(engine.size for engine in self._live() if engine.state is not State.ASLEEP)

    def _live(self) -> list[Engine]:
        return [engine for engine in self._engines if not engine.gone]
