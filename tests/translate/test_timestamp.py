"""The time as Ollama writes it."""

import re
import time

import pytest

from vllama.translate.timestamp import timestamp


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (1_000_000_000, "1970-01-01T00:00:01Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_000_000_001, "1970-01-01T00:00:01.000000001Z"),
        (1_755_000_000_123_456_789, "2025-08-12T12:00:00.123456789Z"),
        (1_755_000_000_123_456_000, "2025-08-12T12:00:00.123456Z"),
        (1_755_000_010_000_000_000, "2025-08-12T12:00:10Z"),
    ],
)
def test_timestamps(monkeypatch, nanoseconds, text):
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)
    assert timestamp() == text


def test_now():
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", timestamp())
