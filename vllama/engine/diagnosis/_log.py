"""An engine's output, without what says who wrote a line and when."""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PROCESS = re.compile(r"^\([\w.-]+( [\w.=-]+)*\) ?")
_LEVEL = re.compile(r"^(ERROR|CRITICAL|WARNING|INFO|DEBUG) [\d-]+ [\d:]+ \[[^\]]*\] ?")
_HARMLESS = ("WARNING", "INFO", "DEBUG")
"""Levels of what was only told, or has been dealt with."""
_LONGEST = 2000
"""Characters of a line: no message is longer, and data may be."""
_SOURCE = " " * 4
"""How a traceback indents the lines of code, in which messages stand as they are written, not as they were raised."""


@dataclass(frozen=True)
class Log:
    """errors: the lines that may tell a cause, and a last one if a signal ended it. everything: lines of all levels.

    ending: how the process ended. signal: the name of the signal that ended it, None for none.
    """

    errors: str
    everything: str
    ending: str
    signal: str | None


def read_log(lines: Iterable[str], status: int | None) -> Log:
    records = [record for line in lines if (record := _read(line))[1]]
    name = _signal_name(status)
    ending = "was stopped" if status is None else f"was killed by {name}" if name else f"exited with status {status}"
    errors = [text.strip() for level, text in records if level not in _HARMLESS and not text.startswith(_SOURCE)]
    return Log(
        errors="\n".join([*errors, ending] if name else errors),
        everything="\n".join(text.strip() for _, text in records),
        ending=ending,
        signal=name,
    )


def _read(line: str) -> tuple[str | None, str]:
    """A line's level, None where it is no log line, and its text."""
    text = _PROCESS.sub("", _COLOUR.sub("", line[:_LONGEST]))
    level = _LEVEL.match(text)
    return (level[1], text[level.end() :].rstrip()) if level else (None, text.rstrip())


def _signal_name(status: int | None) -> str | None:
    """The signal that ended a process, also as the launcher's guard tells it: like a shell, by 128 and its number."""
    if status is None or 0 <= status <= 128:
        return None
    try:
        return signal.Signals(-status if status < 0 else status - 128).name
    except ValueError:
        return None
