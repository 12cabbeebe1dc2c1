"""Pulling models from a hub of our own, and pushing them there."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Alone
from tests.hub_server import COMMIT, Hub, serving
from tests.models.conftest import QWEN3, safetensors
from vllama import demo
from vllama.models import pulls
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.models.sources import Inspector, stored_models
from vllama.models.store import Manifest, Origin, Store, Stored

WEIGHTS = safetensors({"a.weight": ("BF16", [800, 400]), "b.weight": ("BF16", [8])})
DIGEST = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
MODEL = {"config.json": json.dumps(QWEN3).encode(), "model.safetensors": WEIGHTS, "model.gguf": b"no"}
UNKNOWN = "pull model manifest: file does not exist"
TOKEN = "hf_secret"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path, monkeypatch) as server:
        server.repos |= {"org/model": MODEL}
        yield server


@pytest.fixture
def store(alone: Alone, models: dict[str, Model], tmp_path: Path) -> Store:
    """Of the gateway `alone`."""
    alone.gateway.store = store = Store(tmp_path / "models")
    alone.gateway.catalogue = Catalogue(models.values(), [stored_models(store, Inspector())])
    return store


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


async def read(store: Store, name: str) -> Stored | None:
    return await asyncio.to_thread(store.read, parse(name))


async def tags(alone: Alone) -> list[str]:
    return [model["name"] for model in (await alone.api.get("/api/tags")).json()["models"]]


async def test_pull(alone: Alone, hub: Hub, store: Store) -> None:
    events = lines(await alone.api.post("/api/pull", json={"model": "org/model"}))
    statuses = [event["status"] for event in events]
    assert statuses[0] == "pulling manifest"
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    layers = events[1:-3]
    assert {"status", "digest", "total"} <= layers[0].keys()
    assert all(event["status"] == f"pulling {event['digest'][7:19]}" for event in layers)
    of_weights = [event for event in layers if event["digest"] == DIGEST]
    first = {"status": f"pulling {DIGEST[7:19]}", "digest": DIGEST, "total": len(WEIGHTS)}
    assert of_weights[0] in (first, first | {"completed": len(WEIGHTS)}), "it may have come at once"
    assert of_weights[-1] == of_weights[0] | {"completed": len(WEIGHTS)}
    assert {event["digest"] for event in layers} == {event["digest"] for event in layers if "completed" in event}

    stored = await read(store, "org/model")
    assert stored is not None
    assert stored.manifest == Manifest(weights=Origin("hub", "org/model", revision=COMMIT), fetched=True)
    assert "org/model:latest" in await tags(alone)

    # What is here already is told in one line each, and its manifest stays what it is.
    again = lines(await alone.api.post("/api/pull", json={"name": "Org/MODEL:latest"}))
    assert [event for event in again if event.get("digest") == DIGEST] == [of_weights[-1]]
    assert again[-1] == {"status": "success"}
    assert await read(store, "org/model") == stored
    assert hub.fetched.count("model.safetensors") == 1


Offline = Callable[[str, dict[str, bytes]], None]


@pytest.fixture
def offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Offline:
    """Puts a repository into the hub's cache, beside which there is nothing."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(repo: str, files: dict[str, bytes]) -> None:
        storage = Path(pulls.hub.cache_folder()) / f"models--{repo.replace('/', '--')}"
        (storage / "refs").mkdir(parents=True)
        (storage / "refs" / "main").write_text(COMMIT)
        folder = storage / "snapshots" / COMMIT
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)

    return put


async def test_a_name_of_the_library(alone: Alone, offline: Offline, store: Store) -> None:
    offline("Qwen/Qwen3-0.6B", MODEL)
    response = await alone.api.post("/api/pull", json={"model": "qwen3:0.6b-q4_K_M", "stream": False})
    assert (response.status_code, response.json()) == (200, {"status": "success"})
    assert "qwen3:0.6b-q4_K_M" in await tags(alone)
    stored = await read(store, "qwen3:0.6b-q4_K_M")
    assert stored is not None
    assert stored.manifest.weights == Origin("hub", "Qwen/Qwen3-0.6B", revision=COMMIT)


async def test_offline(alone: Alone, offline: Offline, store: Store) -> None:
    offline("org/model", MODEL)
    events = lines(await alone.api.post("/api/pull", json={"model": "org/model"}))
    assert [event["status"] for event in events] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    stored = await read(store, "org/model")
    assert stored is not None
    assert not stored.manifest.fetched  # it is not ours to delete
    last = lines(await alone.api.post("/api/pull", json={"model": "org/other"}))[-1]
    assert "HF_HUB_OFFLINE" in last["error"]


async def test_an_adapter_comes_with_its_base(alone: Alone, hub: Hub, store: Store) -> None:
    config = json.dumps({"base_model_name_or_path": "org/model", "peft_type": "LORA", "r": 4})
    hub.repos["org/adapter"] = {"adapter_config.json": config.encode(), "adapter_model.safetensors": WEIGHTS[::-1]}
    assert lines(await alone.api.post("/api/pull", json={"model": "org/adapter"}))[-1] == {"status": "success"}
    assert await asyncio.to_thread(pulls.hub.cached_snapshot, "org/model") is not None
    stored = await read(store, "org/adapter")
    assert stored is not None
    assert stored.manifest == Manifest(adapter=Origin("hub", "org/adapter", revision=COMMIT), fetched=True)


async def test_what_the_server_was_started_with_is_here(alone: Alone, store: Store) -> None:
    events = lines(await alone.api.post("/api/pull", json={"model": "demo"}))
    assert events == [{"status": "pulling manifest"}, {"status": "success"}]


async def test_two_clients_see_one_download(alone: Alone, hub: Hub, store: Store) -> None:
    hub.stalled = {"model.safetensors"}
    first = asyncio.create_task(alone.api.post("/api/pull", json={"model": "org/model"}))
    await asyncio.to_thread(hub.stalling.wait, 30)
    async with alone.api.stream("POST", "/api/pull", json={"model": "hf.co/org/model"}) as second:
        seen = second.aiter_lines()
        while DIGEST not in (line := await anext(seen)):
            assert "error" not in line
        hub.release.set()
        rest = [json.loads(line) async for line in seen]
    assert rest[-1] == {"status": "success"}
    assert lines(await first)[-1] == {"status": "success"}
    assert hub.fetched.count("model.safetensors") == 1
    assert {"org/model:latest", "hf.co/org/model:latest"} <= set(await tags(alone))


async def test_the_last_client_leaves(alone: Alone, hub: Hub, store: Store) -> None:
    hub.stalled = {"model.safetensors"}
    async with alone.api.stream("POST", "/api/pull", json={"model": "org/model"}) as response:
        seen = response.aiter_lines()
        assert json.loads(await anext(seen)) == {"status": "pulling manifest"}
        await asyncio.to_thread(hub.stalling.wait, 30)
    downloads = pulls.hub._downloads
    while downloads._jobs:
        await asyncio.sleep(0.001)
    assert await read(store, "org/model") is None
    assert list(pulls.hub.cache_folder().glob("*/blobs/*.incomplete"))  # kept for the next time


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "invalid model name"),
        ({"model": " "}, 400, "invalid model name"),
        ({"model": "a b"}, 400, "invalid model name"),
        ({"model": "a/b/c/d"}, 400, "invalid model name"),
        ({"model": "x:cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ({"model": "x:20b-cloud"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        ({"model": "foo:cloud:local"}, 400, 'use either :local or :cloud, not both: "foo:cloud:local"'),
        ({"model": "http://hf.co/org/model"}, 500, "insecure protocol http"),
        ({"model": "x", "stream": 1}, 400, "invalid request: stream: expected boolean, got integer"),
    ],
)
async def test_refused_at_once(alone: Alone, store: Store, body: dict[str, Any], status: int, error: str) -> None:
    response = await alone.api.post("/api/pull", json=body)
    assert (response.status_code, response.json()) == (status, {"error": error})


@pytest.mark.parametrize(
    ("name", "refusal", "error"),
    [
        (
            "no-such-model",
            None,
            f"{UNKNOWN}: there is no 'no-such-model' among the known models of Ollama's library: name a",
        ),
        ("gpt-oss:7b", None, f"{UNKNOWN}: gpt-oss has the tags 20b, 120b"),
        ("org/missing", "not_found", f"{UNKNOWN}: there is no repository org/missing on HUB: check the spelling; a"),
        ("org/model:v9", "revision_not_found", f"{UNKNOWN}: org/model has no revision v9: see HUB/org/model/commits/"),
        (
            "org/Qwen3-4B-GGUF:Q4_K_M",
            "gguf_only",
            "org/Qwen3-4B-GGUF holds only GGUF files: vLLM needs safetensors: use Qwen/Qwen3-4B",
        ),
    ],
)
async def test_refused_on_the_way(
    alone: Alone, store: Store, monkeypatch: pytest.MonkeyPatch, name: str, refusal: str | None, error: str
) -> None:
    async def refuse(repo: str, *, revision: str | None, report: pulls.hub.Report) -> Path:
        assert refusal is not None
        raise pulls.hub.hub_error(refusal, repo, revision)

    monkeypatch.setattr(pulls.hub, "download", refuse)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.com")
    first, last = lines(await alone.api.post("/api/pull", json={"model": name}))
    assert first == {"status": "pulling manifest"}
    assert last.keys() == {"error"}
    assert last["error"].startswith(error.replace("HUB", "https://hub.example.com"))


async def test_refused_without_a_stream(alone: Alone, hub: Hub, store: Store) -> None:
    response = await alone.api.post("/api/pull", json={"model": "no-such-model", "stream": False})
    assert response.status_code == 500
    assert response.json()["error"].startswith(UNKNOWN)


async def test_the_models_of_another_server_are_pulled_there(alone: Alone) -> None:
    response = await alone.api.post("/api/pull", json={"model": "org/model"})
    assert response.status_code == 400
    assert "pull the model there" in response.json()["error"]


@pytest.fixture
def own(store: Store) -> str:
    """A model of the user's, by its name."""
    origin = Origin("demo", "demo")
    manifest = Manifest(
        weights=origin, system="You are terse.", template="{{ messages }}", parameters={"top_k": 7, "num_ctx": 512}
    )
    store.write(parse("me/mine"), manifest)
    return "me/mine"


async def test_push(alone: Alone, hub: Hub, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    events = lines(await alone.api.post("/api/push", json={"model": own}))
    assert events[0] == {"status": "retrieving manifest"}
    assert events[-2:] == [{"status": "pushing manifest"}, {"status": "success"}]
    layers = events[1:-2]
    weights = (demo.CHAT / "model.safetensors").read_bytes()
    digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
    mine = [event for event in layers if event["digest"] == digest]
    assert mine[0] == {"status": f"pushing {digest[7:19]}", "digest": digest, "total": len(weights)}
    assert mine[-1] == mine[0] | {"completed": len(weights)}

    pushed = hub.pushed["me/mine"]
    assert pushed["model.safetensors"] == weights
    assert pushed["config.json"] == (demo.CHAT / "config.json").read_bytes()
    assert pushed["chat_template.jinja"] == b"{{ messages }}"
    generation = json.loads((demo.CHAT / "generation_config.json").read_text())
    assert json.loads(pushed["generation_config.json"]) == generation | {"top_k": 7}
    assert b"SYSTEM You are terse." in pushed["Modelfile"]
    assert hub.created == [{"name": "mine", "organization": "me", "visibility": "private"}]
    assert hub.tokens >= {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("model", "token", "error"),
    [
        ("a b", TOKEN, "unqualified name: a b"),
        ("me/other", TOKEN, "open manifests/registry.ollama.ai/me/other/latest: no such file or directory"),
        ("demo", TOKEN, "unauthorized: access denied: demo:latest names no repository: copy it to ORGANISATION/demo"),
        ("me/mine", "", "me/mine cannot be written without a token: make one with write access at HUB/settings/tokens"),
        ("me/mine", TOKEN, "access denied: the token may not write me/mine: give it write access at HUB"),
    ],
)
async def test_what_is_not_pushed(
    alone: Alone, hub: Hub, own: str, monkeypatch: pytest.MonkeyPatch, model: str, token: str, error: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.refusals["api/repos/create"] = (403, {})
    events = lines(await alone.api.post("/api/push", json={"model": model}))
    assert events[0] == {"status": "retrieving manifest"}
    assert events[-1]["error"].startswith(error.replace("HUB", hub.url))
    unknown = model in {"a b", "me/other"}
    assert ({"status": "couldn't retrieve manifest"} in events) is unknown
    assert TOKEN not in json.dumps(events)


async def test_push_without_a_name(alone: Alone, store: Store) -> None:
    response = await alone.api.post("/api/push", json={"model": " "})
    assert (response.status_code, response.json()) == (400, {"error": "model is required"})
    response = await alone.api.post("/api/push", json={"model": "x", "stream": False})
    assert response.status_code == 500
    assert response.json()["error"].startswith("open manifests/")
