import asyncio

from tests.conftest import Alone


async def test_health_names_what_is_loaded(alone: Alone) -> None:
    response = await alone.api.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok", "loaded": [], "loading": []})
    await alone.api.post("/api/generate", json={"model": "Demo", "keep_alive": -1})
    assert (await alone.api.get("/health")).json() == {"status": "ok", "loaded": ["demo:latest"], "loading": []}


async def test_health_tells_loading_models_apart(alone: Alone) -> None:
    alone.next_place["held"] = True
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(alone.api.post("/api/generate", json={"model": "demo", "keep_alive": -1}))
        async with asyncio.timeout(5):
            while (health := (await alone.api.get("/health")).json()) == {"status": "ok", "loaded": [], "loading": []}:
                pass
        alone.place.may_start.set()
    assert health == {"status": "ok", "loaded": [], "loading": ["demo:latest"]}


async def test_head_is_enough_for_a_probe(alone: Alone) -> None:
    response = await alone.api.head("/health")
    assert (response.status_code, response.content) == (200, b"")
