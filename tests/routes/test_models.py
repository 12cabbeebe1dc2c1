"""/, /api/version, /api/tags, /api/ps and /api/show."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from starlette.applications import Starlette

from tests.conftest import Alone, Engines
from tests.each import each
from tests.fake_engine import EngineInPlace, Silence
from vllama import OLLAMA_VERSION, __version__, demo
from vllama.demo.dialogues import by_name
from vllama.gateway import Gateway
from vllama.models.adapters import Adapter
from vllama.models.model import Model
from vllama.models.modelfile import Modelfile
from vllama.models.names import parse
from vllama.models.store import Manifest, Stored
from vllama.scheduling.scheduler import Loaded
from vllama.server import attached_app
from vllama.settings import Settings

SHOWN = [
    "license", "modelfile", "parameters", "template", "system", "details", "messages", "model_info", "tensors",
    "capabilities", "modified_at",
]  # fmt: skip
DETAILS = ["parent_model", "format", "family", "families", "parameter_size", "quantization_level"]


@pytest.fixture
def gateway(alone: Alone, empty_app: tuple[Starlette, str]) -> Gateway:
    """The one behind `alone`."""
    gateway: Gateway = empty_app[0].state.gateway
    assert gateway.scheduler is alone.scheduler
    return gateway


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


async def test_an_adapter_and_a_made_model(alone: Alone, gateway: Gateway, models: dict[str, Model]) -> None:
    """Each is a model with an identity of its own; what they were made from is told."""
    base = models["demo"]
    assert base.checkpoint is not None
    adapter = Adapter(Path("/a"), "demo", 8, 1000, "ad" * 32, datetime(2026, 1, 2, tzinfo=UTC), ())
    stored = Stored(parse("made"), Manifest(parent="demo:latest"), "57" * 32, datetime(2026, 1, 3, tzinfo=UTC))
    hung = replace(base, name=parse("hung"), engine_name="hung", adapter=adapter, parent="demo:latest")
    gateway.catalogue.put(hung)
    gateway.catalogue.put(replace(base, name=parse("made"), parent="demo:latest", stored=stored))
    tags = {tag["name"]: tag for tag in (await alone.api.get("/api/tags")).json()["models"]}
    assert [tags[name]["details"]["parent_model"] for name in ("hung:latest", "made:latest", "demo:latest")] == [
        "demo:latest", "demo:latest", "",
    ]  # fmt: skip
    assert tags["hung:latest"]["size"] == base.checkpoint.size + 1000
    assert (tags["hung:latest"]["digest"], tags["made:latest"]["digest"]) == ("ad" * 32, "57" * 32)
    assert tags["made:latest"]["modified_at"] == "2026-01-03T00:00:00+00:00"
    assert tags["hung:latest"]["capabilities"] == list(base.capabilities)
    await alone.api.post("/api/generate", json={"model": "hung", "keep_alive": 60})
    [loaded] = (await alone.api.get("/api/ps")).json()["models"]
    assert (loaded["name"], loaded["digest"]) == ("hung:latest", "ad" * 32)
    assert loaded["size"] == loaded["size_vram"] == EngineInPlace.size, "what its engine takes"
    assert loaded["details"]["parent_model"] == "demo:latest"


async def test_a_model_that_can_do_nothing_of_these(alone: Alone, gateway: Gateway, models: dict[str, Model]) -> None:
    checkpoint = models["demo"].checkpoint
    assert checkpoint is not None
    gateway.catalogue.replace_all([replace(models["demo"], checkpoint=replace(checkpoint, capabilities=()))])
    (tag,) = (await alone.api.get("/api/tags")).json()["models"]
    shown = (await alone.api.post("/api/show", json={"model": "demo"})).json()
    assert "capabilities" not in tag
    assert "capabilities" not in shown


async def test_show(api: httpx.AsyncClient) -> None:
    shown = (await api.post("/api/show", json={"model": "Demo"})).json()
    assert list(shown) == [key for key in SHOWN if key in shown]
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
    assert "\nSYSTEM Be brief.\n" in shown["modelfile"]
    assert "system" not in (await api.post("/api/show", json=empty | {"name": "demo", "system": ""})).json()


async def test_show_of_a_model_with_a_modelfile(alone: Alone, gateway: Gateway, models: dict[str, Model]) -> None:
    modelfile = Modelfile("Rhyme.", None, {"temperature": 0.1, "stop": ["<a>", "<b>"]}, (("user", "Hi"),))
    gateway.catalogue.put(replace(models["demo"], name=parse("poet"), modelfile=modelfile))
    shown = (await alone.api.post("/api/show", json={"model": "POET", "options": {"seed": 7}, "template": "x"})).json()
    assert list(shown) == [key for key in SHOWN if key not in {"license", "tensors"} or key in shown]
    assert shown["system"] == "Rhyme."
    assert shown["messages"] == [{"role": "user", "content": "Hi"}]
    assert "temperature                    0.1" in shown["parameters"].splitlines()
    assert "seed" not in shown["parameters"]
    assert shown["template"] == (demo.CHAT / "chat_template.jinja").read_text()
    lines = ["FROM poet:latest", "SYSTEM Rhyme.", "PARAMETER stop <b>", "PARAMETER seed 7", "MESSAGE user Hi"]
    assert set(lines) <= set(shown["modelfile"].splitlines())


async def test_show_verbosely(api: httpx.AsyncClient) -> None:
    shown = (await api.post("/api/show", json={"model": "demo", "verbose": True})).json()
    assert {"name", "type", "shape"} == set(shown["tensors"][0])
    embedding = next(one for one in shown["tensors"] if one["name"] == "model.embed_tokens.weight")
    info = shown["model_info"]
    assert embedding["shape"] == [info["qwen3.vocab_size"], info["qwen3.embedding_length"]]
    assert "tensors" not in (await api.post("/api/show", json={"model": "demo"})).json()


async def test_show_to_copilot(api: httpx.AsyncClient) -> None:
    copilot = {"User-Agent": "GitHubCopilotChat/0.30.1"}
    shown = (await api.post("/api/show", json={"model": "Demo"}, headers=copilot)).json()
    assert shown["model_info"]["general.basename"] == "Demo"
    assert "general.basename" not in (await api.post("/api/show", json={"model": "Demo"})).json()["model_info"]


@pytest.mark.parametrize(
    "name", ["DEMO", "demo:Latest", "library/demo", "registry.ollama.ai/library/demo:latest", "demo:local"]
)
async def test_show_by_any_form_of_the_name(api: httpx.AsyncClient, name: str) -> None:
    shown = (await api.post("/api/show", json={"model": name})).json()
    assert "\nFROM demo:latest\n" in shown["modelfile"]


async def test_show_of_a_model_without_a_template(api: httpx.AsyncClient) -> None:
    assert (await api.post("/api/show", json={"model": "plain"})).json()["template"] == "{{ .Prompt }}"


@each(
    ("body", "status", "text"),
    [
        ({}, 400, "model is required"),
        ({"model": "", "name": " "}, 400, "model is required"),
        ({"model": "a b"}, 400, "invalid model name"),
        ({"model": "Nope"}, 404, "model 'Nope:latest' not found"),
        ({"name": "library/nope:7b"}, 404, "model 'nope:7b' not found"),
        ({"model": "hf.co/nope/nope"}, 404, "model 'hf.co/nope/nope:latest' not found"),
        ({"model": "demo@sha256:0123"}, 400, "invalid model name"),
        ({"model": "démo"}, 400, "invalid model name"),
        ({"model": "a/b/c/d"}, 400, "invalid model name"),
        ({"model": "demo", "options": []}, 400, "invalid request: options: expected object"),
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
    await alone.api.post("/api/generate", json={"model": "demo"})
    (entry,) = (await alone.api.get("/api/ps")).json()["models"]
    assert datetime.fromisoformat(entry["expires_at"]) - before > timedelta(minutes=9), "it stays at what was asked"


async def test_ps_shows_first_what_stays_longest(
    alone: Alone, gateway: Gateway, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = [Loaded(models[name], remaining, None) for name, remaining in (("plain", 5.0), ("demo", 9.0))]
    monkeypatch.setattr(alone.scheduler, "loaded", lambda: loaded)
    listed = (await alone.api.get("/api/ps")).json()["models"]
    assert [entry["name"] for entry in listed] == ["demo:latest", "plain:latest"]


async def test_ps_on_a_cpu(alone: Alone, gateway: Gateway) -> None:
    """Ollama's command line reads from `size_vram` where a model runs."""
    gateway.on_gpu = False
    await alone.api.post("/api/generate", json={"model": "demo", "keep_alive": -1})
    (entry,) = (await alone.api.get("/api/ps")).json()["models"]
    assert entry["size"] > entry["size_vram"] == 0


async def test_ps_while_a_model_loads(alone: Alone) -> None:
    alone.next_place |= {"held": True, "context_length": None}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(alone.api.post("/api/generate", json={"model": "demo", "keep_alive": -1}))
        async with asyncio.timeout(5):
            while not (listed := (await alone.api.get("/api/ps")).json()["models"]):
                pass
        alone.place.may_start.set()
    assert [entry["name"] for entry in listed] == ["demo:latest"]
    assert listed[0]["context_length"] > 0, "the model's own, as the engine has not said its yet"


async def test_ps_while_a_model_drains(alone: Alone) -> None:
    """`expires_at` lies in the past, which Ollama's command line shows as "Stopping..."."""
    silence = Silence()
    alone.engine.script(silence)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(
            alone.api.post("/api/generate", json={"model": "demo", "prompt": "x", "keep_alive": -1})
        )
        await asyncio.wait_for(silence.reached.wait(), 5)
        await alone.api.post("/api/generate", json={"model": "demo", "keep_alive": 0})
        (entry,) = (await alone.api.get("/api/ps")).json()["models"]
        assert datetime.fromisoformat(entry["expires_at"]) <= datetime.now(UTC)
        asked.cancel()


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
        assert shown.modified_at
        assert shown.modified_at < datetime.now(UTC)
        assert shown.details
        assert shown.details.family == "qwen3"
        assert shown.modelfile
        with pytest.raises(ollama.ResponseError, match="remote model details are unavailable"):
            await client.show("gpt-oss:120b-cloud")
        assert shown.modelinfo["qwen3.context_length"] > 0
        with pytest.raises(ollama.ResponseError, match="model 'nope:latest' not found"):
            await client.show("nope")
        assert (await client.generate("demo", "", keep_alive=60)).done_reason == "load"
        (running,) = (await client.ps()).models
        assert running.model == "demo:latest"
        assert running.size
        assert running.size == running.size_vram
        assert running.context_length == alone.place.context_length
        assert running.expires_at
        assert running.expires_at > datetime.now(UTC)
