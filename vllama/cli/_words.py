"""Sizes, times and durations in Ollama's words."""

from datetime import UTC, datetime

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_WEEK, _MONTH, _YEAR = 7 * _DAY, 30 * _DAY, 365 * _DAY
_FOREVER = 20 * _YEAR
"""What is further away than this was meant to have no end."""


def human_size(count: int) -> str:
    """`987 B`, `4.7 GB`, `12 GB`: one decimal below ten, none where it is whole."""
    for unit, scale in _UNITS:
        if count >= scale:
            whole = count >= 10 * scale or count % scale == 0
            return f"{count // scale} {unit}" if whole else f"{count / scale:.1f} {unit}"
    return f"{count} B"


def human_span(seconds: float) -> str:
    """A length of time in its largest unit: `About a minute`, `3 weeks`."""
    if seconds < 2:
        return "Less than a second" if seconds < 1 else "1 second"
    if seconds < _MINUTE:
        return f"{int(seconds)} seconds"
    if seconds < _HOUR:
        minutes = int(seconds / _MINUTE)
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = round(seconds / _HOUR)
    if hours == 1:
        return "About an hour"
    rounded = hours * _HOUR
    for limit, size, unit in (
        (2 * _DAY, _HOUR, "hours"),
        (2 * _WEEK, _DAY, "days"),
        (2 * _MONTH, _WEEK, "weeks"),
        (2 * _YEAR, _MONTH, "months"),
    ):
        if rounded < limit:
            return f"{rounded // size} {unit}"
    return f"{int(seconds) // _YEAR} years"


def human_time(moment: str, now: datetime) -> str:
    """A moment as the API writes it, seen from `now`: `2 weeks ago`, `4 minutes from now`, `Forever`, `Never`."""
    there = datetime.fromisoformat(moment)
    if there.year <= 1:
        return "Never"
    ahead = (there.replace(tzinfo=there.tzinfo or UTC) - now).total_seconds()
    if ahead > _FOREVER:
        return "Forever"
    return f"{human_span(ahead)} from now" if ahead > 0 else f"{human_span(-ahead)} ago"


def go_duration(nanoseconds: int) -> str:
    """As Go prints durations: `850µs`, `1.5s`, `1m0.25s`."""
    if nanoseconds == 0:
        return "0s"
    for unit, scale in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if nanoseconds < 1000 * scale:
            return f"{_decimal(nanoseconds, scale)}{unit}"
    minutes, rest = divmod(nanoseconds, _MINUTE * 10**9)
    hours, minutes = divmod(minutes, 60)
    front = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "")
    return f"{front}{_decimal(rest, 10**9)}s"


def _decimal(number: int, scale: int) -> str:
    whole, rest = divmod(number, scale)
    digits = f"{rest:0{len(str(scale)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else f"{whole}"
