"""`vllama ps --watch`: the engines while they change."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vllama.cli._engines import Engine, fault_of
from vllama.cli._words import human_size
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.cli._client import Server

_AGAIN_S = 1.0
_HEAD = ("NAME", "STATE", "PHASE", "SECONDS", "MEMORY", "REQUESTS", "TOKENS/S", "RESTARTS")
_LEAST = 4
"""Columns that stay however narrow the terminal is."""
_WIDE, _CLOSE = 4, 2

Event = tuple[str, Any]


class Board:
    """What the events told so far, of the engines whose names begin with `prefix`. began: whether there were any."""

    def __init__(self, prefix: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._prefix = prefix.lower()
        self._clock = clock
        self._engines: dict[str, tuple[Engine, float]] = {}
        self._standby: dict[str, Any] = {}
        self.began = False
        self._lost = ""

    def take(self, event: Event) -> None:
        name, data = event
        self.began, self._lost = True, ""
        if name == "engines":
            self._engines = {}
            for engine in data["engines"]:
                self._put(engine)
            self._standby = data.get("standby") or {}
        elif name == "engine":
            self._put(data)
        elif name == "gone":
            self._engines.pop(data["name"], None)
        elif name == "standby":
            self._standby = data

    def lose(self, why: str) -> None:
        """Nothing more is known, and engines end with their server."""
        self._engines, self._standby, self._lost = {}, {}, why

    def _put(self, engine: Engine) -> None:
        if engine["name"].lower().startswith(self._prefix):
            self._engines[engine["name"]] = (engine, self._clock())

    def text(self, width: int) -> str:
        if not self.began:
            return ""
        now = self._clock()
        rows = [_HEAD, *(_row(engine, now - told) for engine, told in self._engines.values())]
        errors = [fault_of(engine) for engine, _ in self._engines.values()]
        below = filter(None, [*errors, standby_line(self._standby), self._lost])
        return _fitted(rows, width) + "".join(f"\n{line}" for line in below)


def _fitted(rows: list[tuple[str, ...]], width: int) -> str:
    """Closer together where the terminal is narrow, and without the last columns where that is not enough."""
    from rich.cells import cell_len

    from vllama.cli._table import table

    def is_narrow(text: str) -> bool:
        return all(cell_len(line) <= width for line in text.splitlines())

    columns = range(len(_HEAD), _LEAST, -1)
    tries = (table([row[:many] for row in rows], gap=gap) for many in columns for gap in (_WIDE, _CLOSE))
    return next(filter(is_narrow, tries), table([row[:_LEAST] for row in rows], gap=_CLOSE))


def _row(engine: Engine, age: float) -> tuple[str, ...]:
    requests, rate = engine["requests"], engine["tokens_per_second"]
    return (
        engine["name"],
        engine["state"],
        phase_text(engine) or "-",
        f"{engine['seconds'] + age:.0f}",
        human_size(engine["memory"]) if engine["memory"] else "-",
        f"{requests['running']}+{requests['waiting']}",
        "-" if rate is None else f"{rate:.1f}",
        str(engine["restarts"]),
    )


def phase_text(engine: Engine) -> str:
    """`reading weights 1 of 2 (50%)`, as much of it as is known."""
    percent = "" if engine["fraction"] is None else f"{engine['fraction']:.0%}"
    detail = f"{engine['detail']} ({percent})" if engine["detail"] and percent else engine["detail"] or percent
    return f"{engine['phase'] or ''} {detail}".strip()


def standby_line(standby: dict[str, Any]) -> str:
    if not standby.get("state"):
        return ""
    memory = f", {human_size(standby['memory'])}" if standby.get("memory") else ""
    reason = f": {standby['reason']}" if standby.get("reason") else ""
    return f"standby: {standby['state']}{memory}{reason}"


def watch(server: "Server", prefix: str) -> None:
    """A table on a terminal, elsewhere a line for each change; until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty():
            _show_table(server, prefix)
        else:
            _print_lines(server, prefix)


def print_events(server: "Server", prefix: str) -> None:
    """The events as NDJSON, until Ctrl-C or the server's end."""
    with contextlib.suppress(KeyboardInterrupt), _events(server) as events:
        for name, data in events:
            if str(data.get("name", prefix)).lower().startswith(prefix.lower()):
                print(json.dumps({"event": name} | data, ensure_ascii=False), flush=True)


@contextlib.contextmanager
def _events(server: "Server") -> Iterator[Iterator[Event]]:
    """Raises VllamaError where the server has none to tell: Ollama's has not."""
    from vllama.cli._client import Refused

    try:
        with server.events("/api/engines/events") as events:
            yield events
    except Refused as refused:
        if refused.status != 404:
            raise
        raise VllamaError("this server tells nothing of its engines", "`ps --watch` needs a vLLama server") from None


def _show_table(server: "Server", prefix: str) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    board = Board(prefix)
    console = Console()
    live = Live(console=console, get_renderable=lambda: Text(board.text(console.width)), vertical_overflow="visible")
    with live:
        while True:
            _follow(server, board)
            time.sleep(_AGAIN_S)


def _follow(server: "Server", board: Board) -> None:
    """Until the server goes away. Raises VllamaError where it never was there."""
    try:
        with _events(server) as events:
            for event in events:
                board.take(event)
    except VllamaError:
        if not board.began:
            raise
    board.lose("the server has gone: waiting for it to come back (Ctrl-C ends)")


def _print_lines(server: "Server", prefix: str) -> None:
    told: dict[str, tuple[str, str]] = {}
    with _events(server) as events:
        for event in events:
            for name, line, error in _lines(event, prefix.lower()):
                before, known = told.get(name, ("", ""))
                news = f": {error}" if error not in ("", known) else ""
                if line != before or news:  # its numbers may have changed, which a table is for
                    print(f"{time.strftime('%H:%M:%S')} {line}{news}", flush=True)
                told[name] = line, error
    raise VllamaError("the server has gone", "start it with `vllama serve`")


def _lines(event: Event, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Whose line it is, the line, and the last failure, which stays the same over several lines."""
    name, data = event
    if name == "engines":
        engines: list[Engine] = data["engines"]
        told = [(engine["name"], _line(engine), engine["error"]) for engine in engines]
        told.append(("standby", _standby_line(data.get("standby") or {}), ""))
    elif name == "engine":
        told = [(data["name"], _line(data), data["error"])]
    elif name == "gone":
        told = [(data["name"], f"{data['name']}: gone", "")]
    else:
        told = [("standby", _standby_line(data), "")]
    yield from (one for one in told if one[1] and one[0].lower().startswith(prefix))


def _standby_line(standby: dict[str, Any]) -> str:
    return standby_line(standby | {"memory": 0})


def _line(engine: Engine) -> str:
    """Without what changes all the time."""
    requests, tenth = engine["requests"], "" if engine["fraction"] is None else f" {int(engine['fraction'] * 10) * 10}%"
    parts = [engine["state"], f"{engine['phase']}{tenth}" if engine["phase"] else ""]
    if engine["state"] == "ready" and any(requests.values()):
        parts.insert(1, f"{requests['running']} running, {requests['waiting']} waiting")
    return f"{engine['name']}: {', '.join(filter(None, parts))}"
