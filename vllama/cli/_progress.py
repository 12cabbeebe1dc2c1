"""How an installation is shown: a bar on a terminal, lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vllama.engine.install import InstallStep, Report


@contextmanager
def show_install() -> Iterator[Report]:
    """Yield the `report` for `ensure_environment`; nothing is printed before the first step."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with _bar() as report:
        yield report


class _Lines:
    """Prints a line where something new begins, and at every tenth of a download."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def __call__(self, step: InstallStep) -> None:
        if step.warning:
            _print(f"warning: {step.what}")
            return
        now = (step.what, int((step.fraction or 0) * 10))
        if now == self._last:
            return
        self._last = now
        percent = f" {step.fraction:.0%}" if step.fraction is not None else ""
        _print(f"{step.what}{percent}" + (f": {step.detail}" if step.detail else ""))


def _print(text: str) -> None:
    print(f"vllama: {text}", file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[Callable[[InstallStep], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = None

        def report(step: InstallStep) -> None:
            nonlocal task
            if step.warning:
                progress.console.print(f"vllama: warning: {step.what}", markup=False, highlight=False)
                return
            if task is None:
                task = progress.add_task(step.what, total=None, detail="")
            total = None if step.fraction is None else 1.0
            progress.update(
                task, description=step.what, total=total, completed=step.fraction or 0.0, detail=step.detail
            )

        yield report
