"""What went wrong with which weights."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllama.engine.engine import State
from vllama.errors import EngineError, VllamaError
from vllama.models.model import Model
from vllama.scheduling.attempts import Attempts
from vllama.scheduling.report import Report
from vllama.scheduling.resident import Resident

logger = logging.getLogger("vllama.scheduler")

_MOST = 100


@dataclass
class _Past:
    """error: of the last attempt, None once an engine was ready."""

    attempts: Attempts
    error: VllamaError | None = None
    names: tuple[str, ...] = ()
    log: Path | None = None
    since: float = 0.0


class Failures:
    """The failures of the last hundred weights that had some, each until an engine of theirs is ready again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pasts: dict[str, _Past] = {}

    def note(self, resident: Resident, error: VllamaError, *, held: bool = False) -> None:
        """held: whether whoever asks too soon is to be told the same, and nothing tried."""
        past = self._past(resident.weights)
        # Whoever raises one adds a traceback to it, which holds the request: this one is raised by nobody.
        past.error, past.names, past.since = copy.copy(error), resident.names, self._clock()
        past.log = resident.engine.log_path if resident.engine is not None else None
        if held:
            past.attempts.failed()

    def restarted(self, weights: str) -> None:
        self._past(weights).attempts.restarted()

    def forgive(self, weights: str) -> None:
        """An engine is ready."""
        if (past := self._pasts.get(weights)) is not None:
            past.error = None
            past.attempts.succeeded()
            if not past.attempts.restarts:
                del self._pasts[weights]

    def delay(self, weights: str) -> float | None:
        """As `Attempts.delay`."""
        return self._past(weights).attempts.delay

    def restarts(self, weights: str) -> int:
        past = self._pasts.get(weights)
        return past.attempts.restarts if past is not None else 0

    def error(self, weights: str) -> VllamaError | None:
        past = self._pasts.get(weights)
        return past.error if past is not None else None

    def held(self, weights: str) -> VllamaError | None:
        """What to tell whoever asks now, where that is too soon after a failure."""
        past = self._pasts.get(weights)
        if past is None or past.error is None or not past.attempts.is_held:
            return None
        return copy.copy(past.error)

    def reports(self) -> list[Report]:
        return [
            Report(
                weights, past.names, State.FAILED, seconds=self._clock() - past.since,
                restarts=past.attempts.restarts, error=str(past.error), log=past.log,
            )
            for weights, past in self._pasts.items()
            if past.error is not None
        ]  # fmt: skip

    def _past(self, weights: str) -> _Past:
        """Made where there is none; the last one used is the last one forgotten."""
        past = self._pasts.pop(weights, None) or _Past(Attempts(self._clock))
        self._pasts[weights] = past
        if len(self._pasts) > _MOST:
            del self._pasts[next(iter(self._pasts))]
        return past


def told(model: Model, error: BaseException) -> VllamaError:
    """What those who wait are told, and the log."""
    if isinstance(error, VllamaError):
        logger.error("%s", error)
        return error
    name = model.name.short
    logger.error("loading %s failed", name, exc_info=error)
    return EngineError(f"loading {name} failed: {error!r}", "this is a fault of vllama's: report it")
