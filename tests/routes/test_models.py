"""/, /api/version, /api/tags, /api/ps and /api/show."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import ollama
import pytest
from starlette.applications import Starlette

from tests.conftest import Alone, Engines
from vllama import OLLAMA_VERSION, __version__, demo
from vllama.demo.dialogues import by_name
from vllama.models.catalogue import Model
from vllama.server import attached_app
from vllama.settings import Settings

DETAILS = ["parent_model", "format", "family", "families", "parameter_size", "quantization_level"]


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_head_is_as_get_without_a_body(api: httpx.AsyncClient, path: str) -> None:
    got, head = await api.get(path), await api.head(path)
    assert (got.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]


async def test_root(api: httpx.AsyncClient) -> None:
    response = await api.get("/")
    assert response.text == "Ollama is running"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


async def test_version(api: httpx.AsyncClient) -> None:
    assert (await api.get("/api/version")).json() == {"version": OLLAMA_VERSION, "vllama": __version__}
    assert tuple(int(part) for part in OLLAMA_VERSION.split(".")) >= (0, 14, 0), "older ones are refused by clients"


async def test_tags(api: httpx.AsyncClient, models: dict[str, Model]) -> None:
    response = await api.get("/api/tags")
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    entries = response.json()["models"]
    assert {entry["name"] for entry in entries} == {f"{name}:latest" for name in models}
    changed = [datetime.fromisoformat(entry["modified_at"]) for entry in entries]
    assert changed == sorted(changed, reverse=True)
    for entry in entries:
        assert list(entry) == ["name", "model", "modified_at", "size", "digest", "details", "capabilities"]
        assert entry["model"] == entry["name"]
        assert re.fullmatch("[0-9a-f]{64}", entry["digest"])
        assert list(entry["details"]) == [*DETAILS, "context_length", "embedding_length"]
    chat = next(entry for entry in entries if entry["name"] == "demo:latest")
    assert chat["size"] > (demo.CHAT / "model.safetensors").stat().st_size
    assert chat["details"]["family"] == "qwen3"
    assert {"completion", "tools", "thinking"} <= set(chat["capabilities"])


async def test_show(api: httpx.AsyncClient) -> None:
    shown = (await api.post("/api/show", json={"model": "Demo"})).json()
    order = ["license", "modelfile", "parameters", "template", "details", "model_info", "capabilities", "modified_at"]
    assert list(shown) == [key for key in order if key in shown]
    assert {"modelfile", "template", "details", "model_info", "capabilities", "modified_at"} <= set(shown)
    assert list(shown["details"]) == DETAILS
    assert shown["template"] == (demo.CHAT / "chat_template.jinja").read_text()
    assert "\nFROM demo:latest\n" in shown["modelfile"]
    info = shown["model_info"]
    architecture = info["general.architecture"]
    assert all(type(info[f"{architecture}.{name}"]) is int for name in ("context_length", "embedding_length"))


async def test_show_with_the_clients_system(api: httpx.AsyncClient) -> None:
    # What Ollama's own command line sends: `name`, and everything else empty.
    empty = {"model": "", "template": "", "verbose": False, "options": None}
    shown = (await api.post("/api/show", json=empty | {"name": "demo", "system": "Be brief."})).json()
    assert shown["system"] == "Be brief."
    assert 'SYSTEM """Be brief."""' in shown["modelfile"]
    assert "system" not in (await api.post("/api/show", json=empty | {"name": "demo", "system": ""})).json()


async def test_show_of_a_model_without_a_template(api: httpx.AsyncClient) -> None:
    assert (await api.post("/api/show", json={"model": "plain"})).json()["template"] == "{{ .Prompt }}"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "model is required"),
        ({"model": "", "name": " "}, 400, "model is required"),
        ({"model": "a b"}, 400, "invalid model name"),
        ({"model": "Nope"}, 404, "model 'Nope:latest' not found"),
        ({"name": "library/nope:7b"}, 404, "model 'nope:7b' not found"),
        ({"model": 5}, 400, "invalid request: model: expected string"),
        (None, 400, "missing request body"),
    ],
)
async def test_show_refuses(api: httpx.AsyncClient, body: Any, status: int, text: str) -> None:
    response = await api.post("/api/show", **({} if body is None else {"json": body}))
    assert response.status_code == status
    assert response.json()["error"].startswith(text)


async def test_ps(alone: Alone) -> None:
    assert (await alone.api.get("/api/ps")).json() == {"models": []}
    before = datetime.now(UTC)
    await alone.api.post("/api/generate", json={"model": "DEMO", "keep_alive": "10m"})
    response = await alone.api.get("/api/ps")
    (entry,) = response.json()["models"]
    assert list(entry) == [
        "name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length",
    ]  # fmt: skip
    assert entry["name"] == entry["model"] == "demo:latest"
    assert entry["size"] == entry["size_vram"] > 0
    assert re.fullmatch("[0-9a-f]{64}", entry["digest"])
    assert list(entry["details"]) == DETAILS
    assert entry["context_length"] == alone.place.context_length
    left = datetime.fromisoformat(entry["expires_at"]) - before
    assert timedelta(minutes=9) < left < timedelta(minutes=11)


@pytest.mark.parametrize("keep_alive", [-1, "-1s", 1e15])
async def test_forever_is_some_292_years(alone: Alone, keep_alive: Any) -> None:
    await alone.api.post("/api/generate", json={"model": "demo", "keep_alive": keep_alive})
    (entry,) = (await alone.api.get("/api/ps")).json()["models"]
    assert datetime.fromisoformat(entry["expires_at"]).year > datetime.now(UTC).year + 250


@pytest.fixture
def attached(engines: Engines) -> Starlette:
    return attached_app(Settings(engine_url=engines["demo"].url))


async def test_before_a_real_engine_that_somebody_else_runs(attached: Starlette) -> None:
    transport = httpx.ASGITransport(attached)
    async with (
        attached.router.lifespan_context(attached),
        httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=1200) as client,
    ):
        (listed,) = (await client.get("/api/tags")).json()["models"]
        assert listed["name"] == "demo:latest"
        assert listed["details"]["context_length"] > 0
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "options": {"temperature": 0}}
        reply = (await client.post("/api/chat", json=body | {"stream": False})).json()
        assert reply["message"]["content"] == by_name("hello").answer


async def test_the_official_client(alone: Alone) -> None:
    async with ollama.AsyncClient(host=alone.url) as client:
        assert {model.model for model in (await client.list()).models} == {
            "demo:latest", "demo-embed:latest", "plain:latest",
        }  # fmt: skip
        assert (await client.ps()).models == []
        shown = await client.show("demo")
        assert shown.capabilities
        assert shown.modelinfo["qwen3.context_length"] > 0
        with pytest.raises(ollama.ResponseError, match="model 'nope:latest' not found"):
            await client.show("nope")
        assert (await client.generate("demo", "", keep_alive=60)).done_reason == "load"
        (running,) = (await client.ps()).models
        assert running.model == "demo:latest"
        assert running.expires_at
        assert running.expires_at > datetime.now(UTC)
