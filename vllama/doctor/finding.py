"""What a check says."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """check: what was looked at. found: what is there. advice: what to do about it, "" where nothing is to be done."""

    check: str
    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """seconds: how long it may take."""

    name: str
    run: Callable[[], Iterable[Finding]]
    seconds: float = 10.0


def ok(check: str, found: str) -> Finding:
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Level.WARNING, found, advice)


def problem(check: str, found: str, advice: str) -> Finding:
    return Finding(check, Level.PROBLEM, found, advice)
