"""What loads, on a terminal: a line for each engine below a log that goes on above them."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vllama.cli._loading import Load, now_line

if TYPE_CHECKING:
    from vllama.scheduling.report import Report


class QuietConsole(Console):
    """Leaves the cursor visible: who stops the server at once would not get it back."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002
        return False


class Board:
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


class Above:
    """Standard error, whose whole lines go above what is shown live."""

    def __init__(self, stream: TextIO, board: Board) -> None:
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
