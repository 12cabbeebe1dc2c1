"""Go's grammar of durations, and `keep_alive`."""

import math

import pytest

from tests.each import each
from vllama.translate.duration import parse_duration, parse_keep_alive, parse_seconds


@each(
    ("text", "seconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("+0", 0),
        ("5s", 5),
        ("+5s", 5),
        ("-1m", -60),
        ("30s", 30),
        ("1478s", 1478),
        ("5.s", 5),
        (".5s", 0.5),
        ("1.0s", 1),
        ("1.004s", 1.004),
        ("100.00100s", 100.001),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("5m0s", 300),
        ("-1.5h", -5400),
        ("500ms", 0.5),
        ("10ns", 1e-8),
        ("11us", 1.1e-5),
        ("12µs", 1.2e-5),  # U+00B5
        ("12μs", 1.2e-5),  # U+03BC
        ("1m1s1ms", 61.001),
        ("39h9m14.425s", 140954.425),
        ("2540400h", 2540400 * 3600),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@each(
    ("text", "error"),
    [
        ("", 'time: invalid duration ""'),
        ("abc", 'time: invalid duration "abc"'),
        ("-", 'time: invalid duration "-"'),
        ("+", 'time: invalid duration "+"'),
        ("s", 'time: invalid duration "s"'),
        (".", 'time: invalid duration "."'),
        (".s", 'time: invalid duration ".s"'),
        ("+.s", 'time: invalid duration "+.s"'),
        ("--5s", 'time: invalid duration "--5s"'),
        (" 5m", 'time: invalid duration " 5m"'),
        ("1m-5s", 'time: unknown unit "m-" in duration "1m-5s"'),
        ("300", 'time: missing unit in duration "300"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
        ("1..5s", 'time: missing unit in duration "1..5s"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1H", 'time: unknown unit "H" in duration "1H"'),
        ("5m ", 'time: unknown unit "m " in duration "5m "'),
        ("1e3s", 'time: unknown unit "e" in duration "1e3s"'),
        ("1é", r'time: unknown unit "\xc3\xa9" in duration "1\xc3\xa9"'),
        ("٣s", r'time: invalid duration "\xd9\xa3s"'),  # a digit, but none of Go's
        ('"\\\n', r'time: invalid duration "\"\\\x0a"'),
        ("2562048h", 'time: invalid duration "2562048h"'),
        ("-9223372037s", 'time: invalid duration "-9223372037s"'),
        ("9" * 400 + "s", f'time: invalid duration "{"9" * 400}s"'),
    ],
)
def test_texts_of_errors(text, error):
    with pytest.raises(ValueError, match=r"^time: ") as raised:
        parse_duration(text)
    assert str(raised.value) == error


@pytest.mark.parametrize(("text", "seconds"), [("300", 300), ("-1", -1), ("+2.5", 2.5), ("5m", 300)])
def test_bare_numbers_are_seconds(text, seconds):
    assert parse_seconds(text) == seconds


@each("text", ["1e3", "٣", "", "inf", "nan", "1_0", "0x10", "5 "])
def test_what_python_alone_takes_for_a_number_is_no_duration(text):
    with pytest.raises(ValueError, match=r"^time: "):
        parse_seconds(text)


@each(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (0.0, 0),
        (-0.0, 0),
        (300, 300),
        (42.5, 42.5),
        (-1, math.inf),
        (-0.001, math.inf),
        (-1.0, math.inf),
        ("5m", 300),
        ("0", 0),
        ("0s", 0),
        ("-1m", math.inf),
        ("300", 300),
        ("-1", math.inf),
        (1e300, math.inf),
        (10**400, math.inf),
        (-(10**400), math.inf),
        (9223372036, 9223372036),
        (9223372037, math.inf),
    ],
)
def test_keep_alive(value, seconds):
    assert parse_keep_alive(value) == seconds


def test_keep_alive_is_a_float():
    assert isinstance(parse_keep_alive(300), float)


@each(
    ("value", "error"),
    [
        (True, "Unsupported type: 'bool'"),
        (False, "Unsupported type: 'bool'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
        ([], "Unsupported type: '[]interface {}'"),
        ("", 'time: invalid duration ""'),
        ("soon", 'time: invalid duration "soon"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1h30", 'time: missing unit in duration "1h30"'),
    ],
)
def test_keep_alive_errors(value, error):
    with pytest.raises(ValueError, match=r"^(time|Unsupported)") as raised:
        parse_keep_alive(value)
    assert str(raised.value) == error
