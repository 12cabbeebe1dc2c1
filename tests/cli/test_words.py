"""Sizes, times and durations as people read them."""

from datetime import UTC, datetime, timedelta

from tests.each import each
from vllama.cli._words import go_duration, human_size, human_span, human_time


@each(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1_500, "1.5 KB"),
        (274_302_450, "274 MB"),
        (2_019_393_189, "2.0 GB"),
        (4_661_224_676, "4.7 GB"),
        (9_960_000_000, "10.0 GB"),
        (42_520_413_916, "42 GB"),
        (1_200_000_000_000, "1.2 TB"),
    ],
)
def test_sizes(count, text):
    assert human_size(count) == text


@each(
    ("span", "text"),
    [
        ({"seconds": 0.9}, "Less than a second"),
        ({"seconds": 1.9}, "1 second"),
        ({"seconds": 59}, "59 seconds"),
        ({"seconds": 119}, "About a minute"),
        ({"minutes": 4, "seconds": 59}, "4 minutes"),
        ({"minutes": 60}, "About an hour"),
        ({"minutes": 89}, "About an hour"),
        ({"minutes": 91}, "2 hours"),
        ({"hours": 47}, "47 hours"),
        ({"hours": 48}, "2 days"),
        ({"days": 13}, "13 days"),
        ({"days": 14}, "2 weeks"),
        ({"days": 59}, "8 weeks"),
        ({"days": 60}, "2 months"),
        ({"days": 729}, "24 months"),
        ({"days": 731}, "2 years"),
    ],
)
def test_spans(span, text):
    assert human_span(timedelta(**span).total_seconds()) == text


NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@each(
    ("moment", "text"),
    [
        ("2026-11-07T11:00:00Z", "2 weeks ago"),
        ("2026-11-21T13:04:59.123456789+01:00", "4 minutes from now"),
        ("2026-11-21T11:56:00-00:00", "4 minutes ago"),
        ("2026-11-21T11:59:59", "1 second ago"),
        ("2318-11-22T07:54:57Z", "Forever"),
        ("0001-01-01T00:00:00Z", "Never"),
    ],
)
def test_moments(moment, text):
    assert human_time(moment, NOW) == text


@each(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1µs"),
        (470_898, "470.898µs"),
        (177_047_285, "177.047285ms"),
        (2_200_000_000, "2.2s"),
        (3_000_000_000, "3s"),
        (300_500_000_000, "5m0.5s"),
        (3_600_000_000_000, "1h0m0s"),
        (90_061_000_000_001, "25h1m1.000000001s"),
    ],
)
def test_durations_as_go_writes_them(nanoseconds, text):
    assert go_duration(nanoseconds) == text
