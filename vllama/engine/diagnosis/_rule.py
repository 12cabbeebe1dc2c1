"""The form of a rule."""

import re
from dataclasses import dataclass

from vllama.engine.diagnosis._log import Log


@dataclass(frozen=True)
class Diagnosis:
    """cause: one sentence, without a full stop. advice: what to do, "" where nobody knows."""

    cause: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.advice}" if self.advice else self.cause


def traceback_through(place: str) -> str:
    """A pattern for a traceback that goes through that file or function, up to the exception in which it ends."""
    return rf"^File .*{place}.*\n(?:(?:File|\[Previous) .*+\n)*+"


@dataclass(frozen=True)
class Rule:
    """What a text in an engine's log means.

    pattern: looked for in all that is no mere information or warning, where `^` and `$` are the ends of a line.
    cause, advice: a diagnosis, in which {name} is a group of the pattern. told: a second pattern that the rule wants,
    looked for in lines of every level; its groups can be named, too.
    """

    name: str
    pattern: str
    cause: str
    advice: str
    told: str = ""

    def read(self, log: Log) -> Diagnosis | None:
        """The diagnosis, where the rule fits."""
        found = re.search(self.pattern, log.errors, re.MULTILINE)
        told = re.search(self.told, log.everything, re.MULTILINE)
        if found is None or told is None:
            return None
        groups = told.groupdict() | found.groupdict()
        return Diagnosis(self.cause.format_map(groups), self.advice.format_map(groups))
