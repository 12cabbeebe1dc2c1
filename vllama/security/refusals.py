"""Who was refused, for the log: browsers and clients show only a 403 without a word."""

import logging

logger = logging.getLogger("vllama.security")

_MOST = 100
"""Texts that are remembered, and logged: whoever is refused chooses what would be in the next one."""


class Refusals:
    def __init__(self) -> None:
        self._logged: set[str] = set()

    def note(self, text: str) -> None:
        """Log the text, the first time only."""
        if text not in self._logged and len(self._logged) < _MOST:
            self._logged.add(text)
            logger.warning("%s", text)
