from tests.conftest import Alone


async def test_health_names_what_is_loaded(alone: Alone) -> None:
    response = await alone.api.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok", "loaded": []})
    await alone.api.post("/api/generate", json={"model": "Demo", "keep_alive": -1})
    assert (await alone.api.get("/health")).json() == {"status": "ok", "loaded": ["demo:latest"]}


async def test_head_is_enough_for_a_probe(alone: Alone) -> None:
    response = await alone.api.head("/health")
    assert (response.status_code, response.content) == (200, b"")
