"""Durations as Ollama's clients write them: Go's `time.ParseDuration` strings, or numbers of seconds."""

import math
import re
from typing import Any

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([^0-9.]*)")
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")
_LONGEST = 2**63 / 1e9
"""Some 292 years in seconds: what Go's durations hold, and what Ollama takes for "forever"."""


def parse_duration(text: str) -> float:
    """Seconds in a Go duration like `1h30m`, `1.5h`, `-1m` or `0`.

    Raises ValueError with Go's own words (`time: missing unit in duration "300"`), which clients show.
    """
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0.0
    total, end = 0.0, 0
    while end < len(body) or not body:
        part = _PART.match(body, end)
        if part is None:
            raise ValueError(f"time: invalid duration {_quote(text)}")
        number, unit = part.groups()
        if not unit:
            raise ValueError(f"time: missing unit in duration {_quote(text)}")
        if unit not in _UNITS:
            raise ValueError(f"time: unknown unit {_quote(unit)} in duration {_quote(text)}")
        total += float(number) * _UNITS[unit]
        end = part.end()
    if total >= _LONGEST:
        raise ValueError(f"time: invalid duration {_quote(text)}")
    return -total if text[0] == "-" else total


def parse_seconds(text: str) -> float:
    """Seconds in a Go duration, or in a bare number. Raises ValueError as `parse_duration` does."""
    return float(text) if _NUMBER.fullmatch(text) else parse_duration(text)


def parse_keep_alive(value: Any) -> float | None:
    """Seconds that a request's `keep_alive` asks for, `inf` for a negative one, None where it is absent.

    A string without a unit, which Ollama refuses, counts seconds as a number does. Raises ValueError with the text that
    Ollama answers.
    """
    match value:
        case None:
            return None
        case bool():
            raise ValueError("Unsupported type: 'bool'")
        case int() | float():
            seconds = value
        case str():
            seconds = parse_seconds(value)
        case _:
            kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
            raise ValueError(f"Unsupported type: '{kind}'")
    return float(seconds) if 0 <= seconds < _LONGEST else math.inf


def _quote(text: str) -> str:
    """Quoted as Go's `time` quotes: bytes that are not printable ASCII in hexadecimal."""
    escapes = {ord('"'): '\\"', ord("\\"): "\\\\"}
    quoted = (escapes.get(byte) or (chr(byte) if 0x20 <= byte < 0x80 else f"\\x{byte:02x}") for byte in text.encode())
    return f'"{"".join(quoted)}"'
