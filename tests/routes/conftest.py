"""What tests of several routes share."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Alone
from tests.routes.led import LedScheduler
from vllama.engine.client import EngineClient


@pytest.fixture
async def scheduler(alone: Alone) -> AsyncIterator[LedScheduler]:
    """Leads the gateway of `alone`."""
    scheduler = LedScheduler(EngineClient(alone.engine.url))
    alone.gateway.scheduler = scheduler
    yield scheduler
    await scheduler.close()
