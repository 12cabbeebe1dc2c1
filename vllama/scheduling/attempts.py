"""How often an engine is started again after it was lost, and how soon after a start that failed."""

import math
from collections.abc import Callable

_WINDOW_S = 600.0
_DELAYS_S = (0.0, 5.0, 20.0)
"""Before each of the restarts within the window; there are no more than these."""
_LONGEST_HOLD_S = 30.0


class Attempts:
    """Those to have one model's engine running. Pure arithmetic: whoever asks acts on it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._restarts: tuple[float, ...] = ()
        self._failures = 0
        self._failed_at = -math.inf

    @property
    def restarts(self) -> int:
        """Within the last ten minutes."""
        return len(self._recent())

    @property
    def delay(self) -> float | None:
        """Seconds to wait before the next restart; None where there were as many as there may be."""
        restarts = self.restarts
        return _DELAYS_S[restarts] if restarts < len(_DELAYS_S) else None

    @property
    def is_held(self) -> bool:
        """Whether the last start failed so recently that another would only fail again."""
        hold = min(2.0 ** min(self._failures - 1, 10), _LONGEST_HOLD_S)
        return self._failures > 0 and self._clock() - self._failed_at < hold

    def restarted(self) -> None:
        self._restarts = (*self._recent(), self._clock())

    def failed(self) -> None:
        self._failures, self._failed_at = self._failures + 1, self._clock()

    def succeeded(self) -> None:
        """It is ready. An engine that dies soon after all the same is no failed start: its restarts stay counted."""
        self._failures = 0

    def _recent(self) -> tuple[float, ...]:
        now = self._clock()
        return tuple(at for at in self._restarts if now - at < _WINDOW_S)
