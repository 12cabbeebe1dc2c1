import asyncio
from typing import Any

from tests.conftest import Alone
from vllama.errors import EngineError


async def health(alone: Alone) -> dict[str, Any]:
    """Without what is the same each time, or empty."""
    response = await alone.api.get("/health")
    told = response.json()
    assert (response.status_code, told.pop("status"), sorted(told)) == (200, "ok", ["failed", "loaded", "loading"])
    return {field: names for field, names in told.items() if names}


async def test_health_names_what_is_loaded(alone: Alone) -> None:
    assert await health(alone) == {}
    await alone.api.post("/api/generate", json={"model": "Demo", "keep_alive": -1})
    assert await health(alone) == {"loaded": ["demo:latest"]}


async def test_health_tells_loading_models_apart(alone: Alone) -> None:
    alone.next_place["held"] = True
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(alone.api.post("/api/generate", json={"model": "demo", "keep_alive": -1}))
        async with asyncio.timeout(5):
            while not (told := await health(alone)):
                pass
        alone.place.may_start.set()
    assert told == {"loading": ["demo:latest"]}


async def test_health_names_what_failed_without_a_cause(alone: Alone) -> None:
    alone.next_place["failure"] = EngineError("/secret is on fire")
    assert (await alone.api.post("/api/generate", json={"model": "demo"})).status_code == 500
    assert await health(alone) == {"failed": ["demo:latest"]}


async def test_health_of_an_engine_that_died(alone: Alone) -> None:
    """It is on its way again."""
    await alone.api.post("/api/generate", json={"model": "demo", "keep_alive": -1})
    alone.next_place["held"] = True
    alone.place.die("killed: buy memory")
    assert await health(alone) == {"loading": ["demo:latest"]}


async def test_head_is_enough_for_a_probe(alone: Alone) -> None:
    response = await alone.api.head("/health")
    assert (response.status_code, response.content) == (200, b"")
