"""How far the loading of models is, told while it goes on."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vllama.engine.progress import Phase
from vllama.scheduling.report import Report
from vllama.scheduling.scheduler import Scheduler

logger = logging.getLogger("vllama")

_TOLD_BY_OTHERS = (Phase.DOWNLOADING, Phase.WAITING, Phase.RESTARTING)
"""How much was downloaded has lines of its own, and so has what makes room, and what starts again."""

_PAUSE_S = 0.1
"""At least, between two looks: each request that comes or goes is a change."""

ShowLoads = Callable[[Sequence[Report]], None]


async def tell_loads(scheduler: Scheduler, show: ShowLoads) -> None:
    """Show what the scheduler reports, again after changes, until cancelled."""
    while True:
        count = scheduler.changes.count
        show(scheduler.reports())
        await asyncio.sleep(_PAUSE_S)
        await scheduler.changes.after(count)


@dataclass
class LoadLog:
    """Logs a line for each phase that an engine enters."""

    _told: dict[str, tuple[Phase | None, int]] = field(default_factory=dict)

    def __call__(self, reports: Sequence[Report]) -> None:
        loading = {report.weights: report for report in reports if report.phase is not None}
        for weights in self._told.keys() - loading.keys():
            del self._told[weights]
        for weights, report in loading.items():
            phase, steps = self._told.get(weights, (None, 0))
            if report.phase is not phase and report.phase not in _TOLD_BY_OTHERS:
                logger.info("%s: %s%s", report.names[0], report.phase, _took(report, steps))
                self._told[weights] = (report.phase, len(report.steps))


def _took(report: Report, told: int) -> str:
    """Of the phases that are over since it was told last."""
    took = [f"{step.phase} took {step.seconds:.1f} s" for step in report.steps[told:]]
    return f" ({', '.join(took)})" if took else ""
