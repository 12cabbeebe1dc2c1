"""The memory that is free, seen to be so once engines have ended."""

import asyncio
import contextlib
from collections.abc import Callable

from vllama.errors import EngineError
from vllama.scheduling.engines import Engines
from vllama.scheduling.plan import Demand
from vllama.scheduling.resident import Resident
from vllama.scheduling.tenant import now

_RETURN_S = 5.0
"""Within which a GPU's driver gives back what a process had that ended."""
_RETURN_POLL_S = 0.1


class FreeMemory:
    """A GPU's driver gives back what a process had a moment after its end.

    Until then the next model would seem not to fit, or more would be evicted than has to be.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._owed, self._owed_until = 0, 0.0

    async def measure(self, resident: Resident, in_a_hurry: Callable[[], bool]) -> tuple[Demand, int]:
        """What the resident is to have, and what is free."""
        while True:
            free = await self._engines.free()
            is_owed = free < self._owed and now() < self._owed_until and not in_a_hurry()
            try:
                demand = await resident.demand(self._engines)
            except EngineError:
                if not is_owed:
                    raise
            else:
                if not is_owed or free >= demand.wanted:
                    return demand, free
            await asyncio.sleep(_RETURN_POLL_S)

    async def expect(self, resident: Resident) -> None:
        """The resident's engine is about to end, or has just ended by itself.

        At the least the half of what was planned for it has to be free then, but no more than there was before it: of
        an engine that ended by itself some may be back already.
        """
        assert resident.engine is not None
        with contextlib.suppress(Exception):  # whoever wants to know more is told what went wrong
            owed = await self._engines.free() + resident.engine.size // 2
            self._owed = min(owed, resident.found) if resident.is_dead else owed
            self._owed_until = now() + _RETURN_S
