"""The time as Ollama writes it."""

import re
import time

import pytest

from vllama.translate.timestamp import _written, timestamp


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_000_000_001, "1970-01-01T00:00:01.000000001Z"),
        (1_755_000_000_123_456_789, "2025-08-12T12:00:00.123456789Z"),
        (1_755_000_000_123_456_000, "2025-08-12T12:00:00.123456Z"),
        (1_755_000_010_000_000_000, "2025-08-12T12:00:10Z"),
    ],
)
def test_timestamps(monkeypatch, nanoseconds, text):
    _written.cache_clear()
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)
    assert timestamp() == text


def test_now():
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", timestamp())


def test_a_time_is_never_old(monkeypatch):
    _written.cache_clear()
    for nanoseconds in range(0, 10**7, 10**5):
        monkeypatch.setattr(time, "time_ns", lambda now=nanoseconds: now)
        fraction = float(timestamp()[19:-1] or "0")
        assert 0 <= nanoseconds / 1e9 - fraction < 1.1e-3
