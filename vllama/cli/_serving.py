"""What `vllama serve` shows of loads: on a terminal a line below the log, which goes on above it."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vllama.cli._loading import Load, now_line

if TYPE_CHECKING:
    from vllama.progress_log import ShowLoads
    from vllama.scheduling.report import Report


@contextmanager
def loads_shown() -> Iterator["ShowLoads"]:
    """Yield what shows reports: as lines of the log, unless the log is a terminal's."""
    from vllama.progress_log import LoadLog

    console = _Console(file=sys.stderr)
    if not console.is_interactive:
        yield LoadLog()
        return
    board = _Board(console)
    with redirect_stderr(cast("TextIO", _Above(sys.stderr, board))):
        try:
            yield board
        finally:
            board([])


class _Console(Console):
    """Leaves the cursor visible: who stops the server at once would not get it back."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002
        return False


class _Board:
    """A line for each engine that loads, as long as one does."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._loads: list[tuple[str, Load, float]] = []
        self._live: Live | None = None

    @property
    def is_shown(self) -> bool:
        return self._live is not None

    def __call__(self, reports: Sequence["Report"]) -> None:
        now = time.monotonic()
        loading = [report for report in reports if report.phase is not None]
        self._loads = [_load(report, now) for report in loading]
        if loading and self._live is None:
            self._live = Live(
                console=self.console, transient=True, refresh_per_second=10, get_renderable=self._text,
                redirect_stderr=False, redirect_stdout=False,
            )  # fmt: skip
            self._live.start(refresh=True)
        elif not loading and self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _text(self) -> Text:
        now = time.monotonic()
        return Text("\n", no_wrap=True, overflow="ellipsis").join(
            now_line(load, now - began, name) for name, load, began in self._loads
        )


def _load(report: "Report", now: float) -> tuple[str, Load, float]:
    """Its name, and when it began. When its phase did is what the earlier ones leave of that."""
    assert report.phase is not None
    spent = sum(step.seconds for step in report.steps)
    load = Load(report.phase, report.fraction, report.detail, now - max(0.0, report.seconds - spent))
    return report.names[0], load, now - report.seconds


class _Above:
    """Standard error, whose whole lines go above what is shown live."""

    def __init__(self, stream: TextIO, board: _Board) -> None:
        self._stream = stream
        self._board = board
        self._rest = ""

    def write(self, text: str) -> int:
        if not self._board.is_shown and not self._rest:
            return self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._board.console.print(Text(line), soft_wrap=True)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
