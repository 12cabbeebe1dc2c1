"""What the benchmark of the relay found, in tables, in a chart and in rows."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks._chart import Bars, Lines
from benchmarks._load import Found
from benchmarks._measuring import table

Results = Mapping[tuple[str, int, str], Sequence[Found]]
"""The rounds by load, connections and way."""
Value = Callable[[Found, Found | None, Found | None], float | None]
"""A number of one run, given those of `direct` and of the floor from the same round; None where there is none."""


@dataclass(frozen=True)
class Column:
    head: str
    value: Value
    form: str = "{:.1f}"


def cpu(found: Found) -> float | None:
    """Microseconds for a token."""
    return found.cpu / found.tokens * 1e6 if found.cpu and found.tokens else None


def _per_answer(found: Found) -> float | None:
    return found.cpu / found.answers * 1e6 if found.cpu and found.answers else None


def first(found: Found, percent: int) -> float | None:
    """Milliseconds to the first token."""
    if len(found.firsts) < 2:
        return None
    return statistics.quantiles(found.firsts, n=100, method="inclusive")[percent - 1]


def _added(percent: int) -> Value:
    def value(found: Found, direct: Found | None, _: Found | None) -> float | None:
        return _difference(first(found, percent), first(direct, percent) if direct else None)

    return value


def _times_floor(found: Found, _: Found | None, floor: Found | None) -> float | None:
    ours, least = cpu(found), cpu(floor) if floor else None
    return ours / least if ours and least else None


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


_CPU = Column("CPU per token, µs", lambda found, *_: cpu(found))
_TIMES = Column("of the floor", _times_floor, "{:.2f}")
_SPEED = Column("tokens/s", lambda found, *_: found.tokens / found.seconds if found.seconds else None, "{:.0f}")
_RESIDENT = Column("resident, MB", lambda found, *_: found.resident / 1e6 or None, "{:.0f}")
_FIRSTS = (
    Column("first token p50, ms", lambda found, *_: first(found, 50), "{:.2f}"),
    Column("p99, ms", lambda found, *_: first(found, 99), "{:.2f}"),
    Column("added p50, ms", _added(50), "{:.2f}"),
    Column("added p99, ms", _added(99), "{:.2f}"),
    Column("CPU per answer, µs", lambda found, *_: _per_answer(found), "{:.0f}"),
)
COLUMNS: Mapping[str, Sequence[Column]] = {
    "paced": (
        _CPU,
        _TIMES,
        _SPEED,
        Column("delay p50, ms", lambda found, *_: found.delays.get("p50"), "{:.2f}"),
        Column("delay p99, ms", lambda found, *_: found.delays.get("p99"), "{:.2f}"),
        _RESIDENT,
    ),
    "requests": _FIRSTS,
    "bursts": (_SPEED, _CPU, _TIMES, _RESIDENT),
    "sequential": _FIRSTS,
}


def tables(results: Results) -> str:
    """One for each load."""
    texts = []
    for load in dict.fromkeys(load for load, _, _ in results):
        columns = COLUMNS[load]
        rows = [
            [str(connections), way, *(_cell(results, (load, connections, way), column) for column in columns)]
            for at, connections, way in results
            if at == load
        ]
        texts.append(f"{load}\n\n" + table(["Connections", "Way", *(column.head for column in columns)], rows))
    return "\n\n".join(texts)


def summary(load: str, connections: int, way: str, found: Found) -> str:
    """A run in a line, to be read while others go on."""
    told = ((column.head, column.form, column.value(found, None, None)) for column in COLUMNS[load])
    numbers = (f"{head}: {form.format(value)}" for head, form, value in told if value is not None)
    return f"{load} {connections:>3} {way:<28} " + "; ".join(numbers)


def values(results: Results, key: tuple[str, int, str], value: Value) -> list[float]:
    """One of each round that has it."""
    load, connections, _ = key
    direct, floor = (results.get((load, connections, way), ()) for way in ("direct", "floor"))
    found = (
        value(run, direct[turn] if turn < len(direct) else None, floor[turn] if turn < len(floor) else None)
        for turn, run in enumerate(results.get(key, ()))
    )
    return [number for number in found if number is not None]


def _cell(results: Results, key: tuple[str, int, str], column: Column) -> str:
    numbers = values(results, key, column.value)
    if not numbers:
        return "-"
    middle = column.form.format(statistics.median(numbers))
    if len(numbers) == 1:
        return middle
    return f"{middle} ({column.form.format(min(numbers))} to {column.form.format(max(numbers))})"


def panels(results: Results) -> list[Bars | Lines]:
    """What can be drawn of what was measured."""
    drawn: list[Bars | Lines] = [
        _lines(results, "paced", "CPU time of the relay for a token, one each 20 ms", _CPU),
        _lines(results, "paced", "Delay of a token on its way, 99 of 100 below", COLUMNS["paced"][4]),
        _bars(results, "requests", "Time to the first token, 99 of 100 below", _FIRSTS[1]),
        _bars(results, "bursts", "Tokens as fast as they are taken", _SPEED),
        _bars(results, "sequential", "Time to the first token of one client alone, median", _FIRSTS[0]),
    ]
    return [panel for panel in drawn if any(panel.series.values())]


def _series(results: Results, load: str, column: Column) -> Iterator[tuple[str, int, list[float]]]:
    for at, connections, way in results:
        numbers = values(results, (at, connections, way), column.value) if at == load else []
        if numbers:
            yield way, connections, numbers


def _lines(results: Results, load: str, title: str, column: Column) -> Lines:
    series: dict[str, list[tuple[float, float]]] = {}
    for way, connections, numbers in _series(results, load, column):
        series.setdefault(way, []).append((connections, statistics.median(numbers)))
    return Lines(title, _unit(column), "connections", series, log=True, log_axis=True)


def _bars(results: Results, load: str, title: str, column: Column) -> Bars:
    found = {(way, connections): numbers for way, connections, numbers in _series(results, load, column)}
    groups = sorted({connections for _, connections in found})
    ways = dict.fromkeys(way for way, _ in found)
    middles = {key: statistics.median(numbers) for key, numbers in found.items()}
    spans = {key: (min(numbers), max(numbers)) for key, numbers in found.items()}
    return Bars(
        title, _unit(column), [str(group) for group in groups],
        {way: [middles.get((way, group)) for group in groups] for way in ways},
        log=True, axis="connections", spans={way: [spans.get((way, group)) for group in groups] for way in ways},
    )  # fmt: skip


def _unit(column: Column) -> str:
    return column.head.rpartition(", ")[2]


def rows(results: Results) -> list[dict[str, Any]]:
    """Every run, as it is written to a file: of the times to the first token what is told of them."""
    return [
        {"load": load, "connections": connections, "way": way, "round": turn + 1}
        | {name: value for name, value in asdict(run).items() if not name.endswith("firsts")}
        | {"cpu_per_token_us": cpu(run), "first_ms": {f"p{percent}": first(run, percent) for percent in (50, 90, 99)}}
        for (load, connections, way), several in results.items()
        for turn, run in enumerate(several)
    ]
