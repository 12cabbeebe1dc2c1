"""The time as Ollama writes it."""

import functools
import time
from datetime import UTC, datetime


def timestamp() -> str:
    """Now, or up to a millisecond ago, in UTC, as Go writes RFC 3339 with nanoseconds: trailing zeros trimmed."""
    return _written(time.time_ns() >> 20)


@functools.lru_cache(maxsize=1)
def _written(_turn: int) -> str:
    """Each token of hundreds of streams has a time: it is written anew only when it is another one."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
