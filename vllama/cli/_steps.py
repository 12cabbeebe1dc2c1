"""How a pull, a push or a create is shown: bars on a terminal, lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vllama.cli._words import human_size


@dataclass(frozen=True)
class Step:
    """One progress object of the API, or a file of ours on its way. total: 0 where nothing is counted."""

    status: str
    total: int = 0
    completed: int = 0


Show = Callable[[Step], None]


@contextmanager
def show_transfer() -> Iterator[Show]:
    """Yield what shows a step; nothing is printed before the first one."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with _bars() as show:
        yield show


class _Lines:
    """A line where something new begins, and at every tenth of what is counted."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}
        self._last = ""

    def __call__(self, step: Step) -> None:
        tenth = step.completed * 10 // step.total if step.total else 0
        if self._tenths.get(step.status) == tenth and (step.total or step.status == self._last):
            return
        self._tenths[step.status], self._last = tenth, step.status
        amount = f" {tenth * 10}% of {human_size(step.total)}" if step.total else ""
        print(f"{step.status}{amount}", file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Show]:
    """A bar for each counted thing, below them what goes on now."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    text = TextColumn("{task.description}", markup=False)
    layers = Progress(
        text, TaskProgressColumn(), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )
    now = Progress(text, SpinnerColumn(finished_text=""))
    status = now.add_task("", total=None, visible=False)
    bars: dict[str, TaskID] = {}

    def show(step: Step) -> None:
        if not step.total:
            ended = {"total": 1, "completed": 1} if step.status == "success" else {"total": None}
            now.update(status, description=step.status, visible=True, **ended)
        elif step.status in bars:
            layers.update(bars[step.status], total=step.total, completed=step.completed)
        else:
            # What was there before this began is no part of its speed.
            bars[step.status] = layers.add_task(step.status, total=step.total, completed=step.completed)
            now.update(status, visible=False)

    with Live(Group(layers, now), console=Console(stderr=True)):
        try:
            yield show
        finally:  # what failed goes on no more
            now.update(status, visible=now.finished)
