"""The time as Ollama writes it."""

import functools
import time
from datetime import UTC, datetime


def timestamp() -> str:
    """Now, or up to a millisecond ago, in UTC, as Go writes RFC 3339 with nanoseconds: trailing zeros trimmed."""
    return timestamp_bytes().decode()


def timestamp_bytes() -> bytes:
    """As `timestamp`. Each token of hundreds of streams has one: it is written anew only when it is another."""
    return _written(time.time_ns() >> 20)


@functools.lru_cache(maxsize=1)
def _written(_turn: int) -> bytes:
    digits = b"%010d" % time.time_ns()  # cut as text: to divide such large numbers takes longer
    fraction = digits[-9:].rstrip(b"0")
    return b"%b.%bZ" % (_second(digits[:-9]), fraction) if fraction else _second(digits[:-9]) + b"Z"


@functools.lru_cache(maxsize=1)
def _second(seconds: bytes) -> bytes:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%S}".encode()
