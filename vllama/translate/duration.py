"""Durations as Ollama's clients write them: Go's `time.ParseDuration` strings, or numbers of seconds."""

import math
import re
from typing import Any

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([^\d.]*)")


def parse_duration(text: str) -> float:
    """Seconds in a Go duration like `1h30m`, `1.5h`, `-1m` or `0`.

    Raises ValueError with Go's own words (`time: missing unit in duration "300"`), which clients show.
    """
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0.0
    if not body:
        raise ValueError(f"time: invalid duration {quoted}")
    total, end = 0.0, 0
    while end < len(body):
        part = _PART.match(body, end)
        if part is None:
            raise ValueError(f"time: invalid duration {quoted}")
        number, unit = part.groups()
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted}")
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration {quoted}')
        total += float(number) * _UNITS[unit]
        end = part.end()
    return -total if text[0] == "-" else total


def parse_keep_alive(value: Any) -> float | None:
    """Seconds that a request's `keep_alive` asks for, `inf` for a negative one, None where it is absent.

    Raises ValueError with the text that Ollama answers.
    """
    match value:
        case None:
            return None
        case bool():
            raise ValueError("Unsupported type: 'bool'")
        case int() | float():
            seconds = float(value)
        case str():
            seconds = parse_duration(value)
        case _:
            kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
            raise ValueError(f"Unsupported type: '{kind}'")
    return math.inf if seconds < 0 else seconds
