"""What an engine's log and exit status say of its end: the cause in one sentence, and what to do about it.

Rules know the failures that have a remedy, each from a real log. Of all others the root exception's own line is shown.
"""

from collections.abc import Iterable

from vllama.engine.diagnosis._environment import ENVIRONMENT
from vllama.engine.diagnosis._log import read_log
from vllama.engine.diagnosis._machine import MACHINE
from vllama.engine.diagnosis._memory import MEMORY
from vllama.engine.diagnosis._model import MODEL
from vllama.engine.diagnosis._root import root_cause
from vllama.engine.diagnosis._rule import Diagnosis, Rule
from vllama.engine.diagnosis._signals import SIGNALS

__all__ = ["RULES", "Diagnosis", "Rule", "diagnose"]

RULES: tuple[Rule, ...] = (*SIGNALS, *MODEL, *MEMORY, *MACHINE, *ENVIRONMENT)
"""The first one that fits is right: what a signal ended had no time to log why, and the general come last."""


def diagnose(lines: Iterable[str], status: int | None) -> Diagnosis:
    """Why an engine ended.

    lines: the last ones of its output. status: its exit status, as a process or a shell tells it; None where unknown.
    """
    log = read_log(lines, status)
    known = (diagnosis for rule in RULES if (diagnosis := rule.read(log)))
    return next(known, None) or Diagnosis(root_cause(log), "")
