"""How `vllama bench` shows what it measures: a line while it does, then a table."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vllama.bench.load import Level, Plan
from vllama.bench.summary import Spread, Summary, tokens_of

if TYPE_CHECKING:
    from rich.text import Text

_BAR = 20
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BUSY = 0.8
"""Of the time: a client that is busier may be what is measured."""
_HEAD = (
    "CLIENTS", "REQUESTS", "ERRORS", "TOKENS/S", "PER STREAM",
    "TTFT P50", "P90", "P99", "ITL P50", "P90", "P99", "PROMPT", "ANSWER",
)  # fmt: skip


@contextmanager
def show_levels(levels: Sequence[Level], plan: Plan) -> Iterator[Callable[[Level], None]]:
    """Yield what is to be told of each level that ended; on a terminal the last one is followed."""
    from rich.console import Console

    console = Console(stderr=True)
    if not sys.stderr.isatty() or not console.is_interactive:
        yield lambda level: print(ended_line(level), file=sys.stderr, flush=True)
        return
    from rich.live import Live

    def now() -> "Text":
        return now_line(levels[-1] if levels else None, plan)

    with Live(console=console, transient=True, refresh_per_second=4, get_renderable=now):
        yield lambda level: console.print(f"✓ {ended_line(level)}", markup=False, highlight=False)


def ended_line(level: Level) -> str:
    failed = sum(bool(answer.error) for answer in level.answers)
    told = f"{_clients(level)}: {_answers(level)} in {level.seconds:.1f} s, {_rate(level):.0f} tokens/s"
    return f"{told}, {_many(failed, 'error')}" if failed else told


def now_line(level: Level | None, plan: Plan) -> "Text":
    from rich.text import Text

    if level is None or level.ended:
        return Text("")
    spinner = (_SPINNER[int(time.monotonic() * 10) % len(_SPINNER)], "cyan")
    if not level.began:
        return Text.assemble(spinner, f" {_clients(level)}: warming up")
    part = _answered(level) / plan.requests if plan.requests else level.seconds / (plan.seconds or 1.0)
    filled = round(min(part, 1.0) * _BAR)
    return Text.assemble(
        spinner, f" {_clients(level)}  ", ("━" * filled, "green"), ("─" * (_BAR - filled), "bright_black"),
        f"  {_answers(level)}  {_rate(level):.0f} tokens/s  {level.seconds:.0f} s",
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip


def _clients(level: Level | Summary) -> str:
    return _many(level.clients, "client")


def _answers(level: Level) -> str:
    return _many(_answered(level), "answer")


def _answered(level: Level) -> int:
    return sum(answer.is_complete for answer in level.answers)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _rate(level: Level) -> float:
    return sum(tokens_of(answer) for answer in level.answers if not answer.error) / max(level.seconds, 1e-3)


def rows(found: Sequence[Summary]) -> list[Sequence[str]]:
    """Times in milliseconds, lengths in tokens."""
    return [_HEAD, *(_row(level) for level in found)]


def _row(level: Summary) -> list[str]:
    return [
        str(level.clients), str(level.requests), str(sum(level.errors.values())),
        f"{level.tokens_per_second:.1f}", _number(level.per_stream),
        *_times(level.ttft), *_times(level.itl), _number(level.prompt_tokens), _number(level.answer_tokens),
    ]  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}".removesuffix(".0")


def _times(spread: Spread | None) -> list[str]:
    if spread is None:
        return ["-"] * 3
    return [f"{value:.1f} ms" for value in (spread.p50, spread.p90, spread.p99)]


def notes(found: Sequence[Summary], *, interrupted: bool) -> Iterator[str]:
    """What the numbers do not say themselves."""
    if interrupted:
        yield f"interrupted: {'this is what' if found else 'nothing'} was measured so far"
    for level in found:
        clients = _clients(level)
        for error, times in sorted(level.errors.items()):
            yield f"{clients}: {times} x {error}"
        if level.client_cpu > _BUSY:
            yield (
                f"{clients}: the benchmark itself was busy for {level.client_cpu:.0%} of the time: the server may be"
                " faster than it looks"
            )
    if any(error.startswith("503") for level in found for error in level.errors):
        yield "503: more was asked at once than the server takes; its log says which bound that was"
