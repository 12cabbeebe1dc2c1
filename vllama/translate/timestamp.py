"""The time as Ollama writes it."""

import functools
import time
from datetime import UTC, datetime


def timestamp() -> str:
    """Now, in UTC, as Go writes RFC 3339 with nanoseconds: trailing zeros trimmed."""
    now = str(time.time_ns())
    text = _second(now[:-9]) + now[-9:]
    return text + "Z" if text[-1] != "0" else text.rstrip("0").rstrip(".") + "Z"


@functools.lru_cache(maxsize=1)
def _second(seconds: str) -> str:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%S}."
