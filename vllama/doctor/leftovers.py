"""What a crash has left running."""

from collections.abc import Iterator

from vllama.doctor.finding import Finding, ok, warning
from vllama.engine.leftovers import Records
from vllama.settings import Settings

_NAME = "leftovers"


def check(settings: Settings) -> Iterator[Finding]:
    """Engines that live though their server does not, and hold memory."""
    found = Records(settings.home).list_leftovers()
    for leftover in found:
        pids = " ".join(map(str, leftover.pids))
        advice = f"the next `vllama serve` ends it, or `kill -9 {pids}`"
        yield warning(_NAME, f"the engine of {leftover.name} outlived its server (processes {pids})", advice)
    if not found:
        yield ok(_NAME, "none: no engine outlived its server")
