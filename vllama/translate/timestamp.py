"""The time as Ollama writes it."""

import functools
import time
from datetime import UTC, datetime


def timestamp() -> str:
    """Now, in UTC, as Go writes RFC 3339 with nanoseconds: trailing zeros trimmed."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    text = f"{_second(seconds)}.{nanoseconds:09d}"
    return (text if nanoseconds % 10 else text.rstrip("0").rstrip(".")) + "Z"


@functools.lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
