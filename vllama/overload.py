"""Bounds on what is done at once: past one, the server says that it is busy."""

import logging
import time

from vllama.errors import ApiError

BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's text, on which clients match."""

_QUIET_S = 60.0
"""Between two lines in the log: what is refused comes in crowds."""

logger = logging.getLogger("vllama")


class Bound:
    """most: of what is bounded. setting: the one to raise, for the server's log. refused: requests, by now."""

    def __init__(self, most: int, setting: str) -> None:
        self.most = most
        self.refused = 0
        self._setting = setting
        self._told_at = -_QUIET_S

    def check(self, taken: int, more: int = 1) -> None:
        """Raises ApiError 503 where there would be more than may be."""
        if taken + more > self.most:
            raise self.refusal()

    def refusal(self) -> ApiError:
        self.note()
        return ApiError(503, BUSY)

    def note(self) -> None:
        """Somebody is refused."""
        self.refused += 1
        if (now := time.monotonic()) >= self._told_at + _QUIET_S:
            self._told_at = now
            logger.warning("busy: %s is reached, at %d; refused by now: %d", self._setting, self.most, self.refused)
