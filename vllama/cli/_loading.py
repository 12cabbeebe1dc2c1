"""How a load is shown: phase by phase with its seconds, on a terminal with what goes on now below."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR = 12
_DONE = "✓"


@dataclass(frozen=True)
class Load:
    """Where a load is. began: `time.monotonic()` when its phase did."""

    phase: str
    fraction: float | None
    detail: str
    began: float

    @property
    def text(self) -> str:
        """Like `reading weights 1 of 2`, or `downloading 40%` where nothing tells it in words."""
        percent = "" if self.fraction is None else f"{self.fraction:.0%}"
        return f"{self.phase} {self.detail or percent}".rstrip()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


Show = Callable[[Mapping[str, Any]], None]
"""Takes the objects of a warm-up's answer as they come."""


class Phases:
    """Follows a load. now: where it is, None before it began and once it is over."""

    def __init__(self) -> None:
        self.now: Load | None = None

    def take(self, chunk: Mapping[str, Any]) -> Load | None:
        """Go on to what a chunk says. Returns the phase that this ended, if one."""
        before, phase = self.now, str(chunk.get("status"))
        began = time.monotonic() - chunk.get("seconds", 0.0)
        if before is not None and before.phase == phase:
            began = min(began, before.began)
        over = phase == "success"
        self.now = None if over else Load(phase, chunk.get("fraction"), chunk.get("detail") or "", began)
        return before if before is not None and before.phase != phase else None


@contextmanager
def show_load(*, brief: bool = False) -> Iterator[Show]:
    """Yield what shows a chunk; nothing is printed before the first one. brief: only what goes on, while it does."""
    from rich.console import Console

    console = Console(stderr=True)
    if not sys.stderr.isatty() or not console.is_interactive:
        yield _Lines()
        return
    from rich.live import Live

    phases = Phases()

    def show(chunk: Mapping[str, Any]) -> None:
        if (ended := phases.take(chunk)) is not None and not brief:
            console.print(ended_line(ended.phase, ended.seconds))

    began = time.monotonic()

    def now() -> "Text":
        return now_line(phases.now, time.monotonic() - began)

    with Live(console=console, transient=True, refresh_per_second=10, get_renderable=now):
        yield show


class _Lines:
    """A line for each phase, when it begins."""

    def __init__(self) -> None:
        self._phases = Phases()

    def __call__(self, chunk: Mapping[str, Any]) -> None:
        before = self._phases.now
        ended = self._phases.take(chunk)
        now = self._phases.now
        if now is not None and (before is None or ended is not None):
            took = f" ({ended.phase} took {ended.seconds:.1f} s)" if ended is not None else ""
            print(f"{now.phase}{took}", file=sys.stderr, flush=True)


def ended_line(phase: str, seconds: float) -> "Text":
    from rich.text import Text

    return Text.assemble((_DONE, "green"), f" {phase:<20} {seconds:6.1f} s")


def now_line(load: Load | None, seconds: float, name: str = "") -> "Text":
    """A spinner, or a bar where it is known how much is done, and the seconds since it all began."""
    from rich.text import Text

    if load is None:
        return Text("")
    spinner = _SPINNER[int(time.monotonic() * 10) % len(_SPINNER)]
    head = f" {name}{': ' if name else ''}{load.phase:<20} {load.seconds:6.1f} s"
    text = Text.assemble((spinner, "cyan"), head, no_wrap=True, overflow="ellipsis")
    if load.fraction is not None:
        filled = round(min(max(load.fraction, 0.0), 1.0) * _BAR)
        text.append_text(Text.assemble("  ", ("━" * filled, "green"), ("─" * (_BAR - filled), "bright_black")))
        text.append(f" {load.fraction:.0%}")
    if load.detail:
        text.append(f"  {load.detail}")
    if seconds - load.seconds > 1:
        text.append(f"  ({seconds:.0f} s in all)", "bright_black")
    return text
