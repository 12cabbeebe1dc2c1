"""/api/copy and /api/delete."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Alone
from vllama import demo
from vllama.engine.caches import Caches
from vllama.models.adapters import inspect_adapter
from vllama.models.names import parse
from vllama.models.store import Manifest, Origin, Store

Library = tuple[Alone, Store]
DEMO = Origin("demo", "demo")
COMMIT = "0" * 40


async def write(store: Store, name: str, manifest: Manifest) -> None:
    await asyncio.to_thread(store.write, parse(name), manifest)


async def read(store: Store, name: str) -> Manifest | None:
    stored = await asyncio.to_thread(store.read, parse(name))
    return stored.manifest if stored else None


async def copy(alone: Alone, source: str, destination: str) -> httpx.Response:
    return await alone.api.post("/api/copy", json={"source": source, "destination": destination})


async def delete(alone: Alone, **body: Any) -> httpx.Response:
    return await alone.api.request("DELETE", "/api/delete", json=body)


async def names(alone: Alone) -> set[str]:
    listed = (await alone.api.get("/api/tags")).json()["models"]
    return {model["name"] for model in listed} - {"demo:latest", "demo-embed:latest", "plain:latest"}


def cache(tmp_path: Path, repo: str, source: Path = demo.CHAT) -> Path:
    """A repository in the hub's cache."""
    storage = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    shutil.copytree(source, storage / "snapshots" / COMMIT)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(COMMIT)
    return storage


async def test_copies(library: Library, tmp_path: Path) -> None:
    alone, store = library
    cache(tmp_path, "me/cached")
    cache(tmp_path, "me/parrot", demo.ADAPTER)
    made = Manifest(weights=DEMO, system="Hi.", parent="demo:latest")
    await write(store, "mine", made)
    expected = {
        "mine": made,
        "demo": Manifest(weights=DEMO),
        "me/cached": Manifest(weights=Origin("hub", "me/cached")),
        "me/parrot": Manifest(weights=DEMO, adapter=Origin("hub", "me/parrot", COMMIT), parent="demo:latest"),
    }
    for source, manifest in expected.items():
        response = await copy(alone, source, "Other")
        assert (response.status_code, response.content) == (200, b""), response.text
        assert await read(store, "other") == manifest
    assert "Other:latest" in await names(alone)
    first = await copy(alone, "other", "second:1b")
    assert first.status_code == 200
    assert await read(store, "second:1b") == expected["me/parrot"]


async def test_a_copy_of_an_adapter_that_the_server_was_given(library: Library) -> None:
    alone, store = library
    base = alone.gateway.catalogue.find(parse("demo"))
    assert base is not None
    folder = await asyncio.to_thread(lambda: Path(shutil.copytree(demo.ADAPTER, store.root / "../adapter")).resolve())
    adapter = await asyncio.to_thread(inspect_adapter, folder)
    alone.gateway.catalogue.put(replace(base, name=parse("given"), adapter=adapter, parent="demo:latest"))
    assert (await copy(alone, "given", "mine")).status_code == 200
    assert await read(store, "mine") == Manifest(
        weights=DEMO, adapter=Origin("folder", str(folder)), parent="demo:latest"
    )


async def test_a_copy_onto_itself_is_none(library: Library) -> None:
    alone, store = library
    assert (await copy(alone, "demo", "DEMO:latest")).status_code == 200
    assert await read(store, "demo") is None


@pytest.mark.parametrize(
    ("source", "destination", "status", "text"),
    [
        ("", "", 400, 'source "" is invalid'),
        ("a b", "", 400, 'source "a b" is invalid'),
        ("demo", "", 400, 'destination "" is invalid'),
        ("demo", "a/b/c/d", 400, 'destination "a/b/c/d" is invalid'),
        ("Nope", "x", 404, 'model "Nope" not found'),
        ("demo", "peft:1", 400, "invalid model name: peft:1 reads as a training run's: begin with another word"),
        ("demo", "x:cloud", 400, 'destination "x:cloud" is invalid: x:cloud reads as a model of Ollama\'s cloud'),
        ("plain", "demo", 400, "demo:latest is one of the server's own models"),
    ],
)
async def test_copies_that_are_refused(library: Library, source: str, destination: str, status: int, text: str) -> None:
    alone, _ = library
    response = await copy(alone, source, destination)
    assert response.status_code == status
    assert response.json()["error"].startswith(text)
    assert await names(alone) == set()


async def test_a_deleted_model_is_not_served(library: Library) -> None:
    alone, store = library
    await write(store, "mine", Manifest(weights=DEMO))
    assert (await alone.api.post("/api/show", json={"model": "mine"})).status_code == 200
    response = await delete(alone, model="", name="MINE:latest")
    assert (response.status_code, response.content) == (200, b"")
    chat = await alone.api.post("/api/chat", json={"model": "mine", "messages": []})
    assert (chat.status_code, chat.json()) == (404, {"error": "model 'mine' not found"})
    assert await names(alone) == set()


async def test_what_was_compiled_goes_with_the_last_model_on_its_weights(library: Library, tmp_path: Path) -> None:
    alone, store = library
    cache(tmp_path, "me/cached")
    weights = Origin("hub", "me/cached", COMMIT)
    await write(store, "mine", Manifest(weights=weights))
    await write(store, "other", Manifest(weights=weights))
    folder = await asyncio.to_thread(compiled, store.root.parent / "cache", "me/cached")
    await delete(alone, model="mine")
    assert folder.is_dir()
    await delete(alone, model="other")
    assert not folder.is_dir()


def compiled(root: Path, weights: str) -> Path:
    return Path(Caches(root, "0.32.0").variables(weights)["VLLM_CACHE_ROOT"])


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "model is required"),
        ({"model": " "}, 400, "model is required"),
        ({"model": "a b"}, 400, 'name "a b" is invalid'),
        ({"name": "Nope"}, 404, "model 'Nope' not found"),
        ({"name": "nope:cloud"}, 404, "model 'nope:cloud' not found"),
        ({"model": "demo"}, 400, "demo:latest is one of the server's own models (--model, --lora, or built in)"),
    ],
)
async def test_deletions_that_are_refused(library: Library, body: dict[str, Any], status: int, text: str) -> None:
    alone, _ = library
    response = await delete(alone, **body)
    assert response.status_code == status
    assert response.json()["error"].startswith(text)


async def test_a_repository_of_the_cache(library: Library, tmp_path: Path) -> None:
    alone, _ = library
    storage, other = cache(tmp_path, "me/cached"), cache(tmp_path, "me/other")
    assert await names(alone) == {"me/cached:latest", "me/other:latest"}
    assert (await delete(alone, model="me/cached")).status_code == 200
    assert not storage.exists()
    assert await names(alone) == {"me/other:latest"}
    assert [path.name for path in (tmp_path / "hub").iterdir()] == [other.name]


@pytest.mark.parametrize("fetched", [True, False])
async def test_what_was_fetched_goes_with_the_last_name(library: Library, tmp_path: Path, fetched: bool) -> None:
    alone, store = library
    storage = cache(tmp_path, "me/far")
    manifest = Manifest(weights=Origin("hub", "me/far", COMMIT), fetched=fetched)
    await write(store, "far", manifest)
    assert (await copy(alone, "far", "copy")).status_code == 200
    await delete(alone, model="far")
    assert storage.exists()
    await delete(alone, model="copy")
    assert storage.exists() is not fetched


async def test_what_a_model_of_the_server_needs_stays(library: Library, tmp_path: Path) -> None:
    alone, store = library
    storage = cache(tmp_path, "me/far")
    base = alone.gateway.catalogue.find(parse("demo"))
    assert base is not None
    alone.gateway.catalogue.put(replace(base, name=parse("given"), source="me/far"))
    await write(store, "far", Manifest(weights=Origin("hub", "me/far", COMMIT), fetched=True))
    assert (await delete(alone, model="far")).status_code == 200
    assert storage.exists()


async def test_a_folder_of_somebody_elses(library: Library) -> None:
    alone, _ = library
    base = alone.gateway.catalogue.find(parse("demo"))
    assert base is not None
    alone.gateway.catalogue._shelves = [lambda _find: [replace(base, name=parse("trained"))]]
    response = await delete(alone, model="trained")
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"trained:latest is what lies in {demo.CHAT}: remove that")


async def test_a_model_that_cannot_be_served_can_be_deleted(library: Library) -> None:
    alone, store = library
    await write(store, "broken", Manifest(weights=Origin("folder", "/gone")))
    assert (await delete(alone, model="broken")).status_code == 200
    assert await read(store, "broken") is None


async def test_a_disk_that_does_not_let_go(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, store = library
    await write(store, "mine", Manifest(weights=DEMO))

    def unlink(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        response = await delete(alone, model="mine")
    assert response.status_code == 500
    assert "latest.json cannot be written (Operation not permitted): check the disk" in response.json()["error"]
    assert await names(alone) == {"mine:latest"}


async def test_before_a_server_that_somebody_else_runs(alone: Alone) -> None:
    for response in (await copy(alone, "demo", "x"), await delete(alone, model="demo")):
        assert response.status_code == 400
        assert "--engine-url" in response.json()["error"]
