"""How far loads are, told in the log."""

import asyncio
import logging

import pytest

from vllama.app import create_app
from vllama.changes import Changes
from vllama.engine.engine import State
from vllama.engine.progress import Phase, Step
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.progress_log import LoadLog, tell_loads
from vllama.scheduling.report import Report


def report(phase=None, *steps, weights="w", name="demo:latest"):
    return Report(weights, (name,), State.STARTING, phase, steps=tuple(Step(*step) for step in steps))


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "vllama")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_line_for_each_phase(told):
    log, importing, reading = LoadLog(), (Phase.IMPORTING, 3.21), (Phase.READING, 0.5)
    log([report(Phase.DOWNLOADING)])
    log([report(Phase.WAITING)])
    log([report(Phase.IMPORTING)])
    log([report(Phase.IMPORTING)])
    log([report(Phase.READING, importing), report(Phase.IMPORTING, weights="v", name="other:latest")])
    log([report(Phase.WARMING, importing, reading, (Phase.ALLOCATING, 1.0))])
    log([report(None, importing)])
    log([report(Phase.IMPORTING)])
    assert told() == [
        "demo:latest: importing",
        "demo:latest: reading weights (importing took 3.2 s)",
        "other:latest: importing",
        "demo:latest: warming up (reading weights took 0.5 s, allocating KV cache took 1.0 s)",
        "demo:latest: importing",
    ]


class Reporting:
    def __init__(self):
        self.changes = Changes()
        self.now = []

    async def close(self):
        """Nothing to do."""

    def reports(self):
        return self.now


async def test_it_is_told_after_each_change():
    scheduler, shown = Reporting(), asyncio.Queue()
    task = asyncio.create_task(tell_loads(scheduler, shown.put_nowait))
    try:
        assert await shown.get() == []
        scheduler.now = [report(Phase.IMPORTING)]
        scheduler.changes.note()
        assert await shown.get() == scheduler.now
        assert shown.empty()
    finally:
        task.cancel()


async def test_the_application_tells_from_its_start_to_its_end():
    scheduler, shown = Reporting(), asyncio.Queue()
    scheduler.now = [report(Phase.IMPORTING)]
    app = create_app(Gateway(Catalogue([]), scheduler, show_loads=shown.put_nowait))
    before = asyncio.all_tasks()
    async with app.router.lifespan_context(app):
        assert await shown.get() == scheduler.now
    assert asyncio.all_tasks() <= before
