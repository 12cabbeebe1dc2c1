"""/api/create."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import ollama
import pytest

from tests.conftest import Alone
from tests.each import each
from tests.models.conftest import QWEN3, safetensors
from vllama import demo
from vllama.engine.client import EngineClient
from vllama.models.modelfile_parser import parse_modelfile
from vllama.models.modelfile_request import to_request
from vllama.models.names import ModelName, parse
from vllama.models.store import Manifest, Origin, Store
from vllama.routes import library as routes
from vllama.wire.manage import Progress

Library = tuple[Alone, Store]
DEMO = Origin("demo", "demo")
JINJA = "{% for message in messages %}{{ message.content }}{% endfor %}"
UNWRITABLE = 'Like\n"""this"""\nalways.'


async def upload(alone: Alone, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    response = await alone.api.post(f"/api/blobs/{digest}", content=content)
    assert response.status_code in (200, 201), response.text
    return digest


async def upload_folder(alone: Alone, folder: Path) -> dict[str, str]:
    """Files of the folder itself; digests by names."""
    return {path.name: await upload(alone, path.read_bytes()) for path in folder.iterdir() if path.is_file()}


async def create(alone: Alone, **body: Any) -> list[dict[str, Any]]:
    """The lines of a streamed create."""
    body = {name.rstrip("_"): value for name, value in body.items()}
    response = await alone.api.post("/api/create", json={"model": "mine"} | body)
    assert response.headers["content-type"].startswith("application/x-ndjson"), response.text
    return [json.loads(line) for line in response.text.splitlines()]


async def manifest(store: Store, name: str = "mine") -> Manifest:
    stored = await asyncio.to_thread(store.read, parse(name))
    assert stored is not None
    return stored.manifest


async def names(store: Store) -> list[str]:
    return await asyncio.to_thread(lambda: sorted(stored.name.short for stored in store))


async def show(alone: Alone, name: str = "mine") -> dict[str, Any]:
    shown: dict[str, Any] = (await alone.api.post("/api/show", json={"model": name})).json()
    return shown


async def test_from_a_model(library: Library) -> None:
    alone, store = library
    lines = await create(alone, from_="demo", system="Rhyme.", parameters={"seed": 7, "nonsense": 1}, license="MIT")
    base = alone.gateway.catalogue.find(parse("demo"))
    assert base is not None
    first, *texts = [line["status"] for line in lines]
    assert first == f"using existing layer sha256:{base.digest}"
    assert [re.sub("[0-9a-f]{64}", "…", text) for text in texts] == [
        *["creating new layer sha256:…"] * 3, "writing manifest", "success",
    ]  # fmt: skip
    assert await manifest(store) == Manifest(
        weights=DEMO, parent="demo:latest", system="Rhyme.", parameters={"seed": 7}, license=("MIT",)
    )
    assert (await show(alone, "MINE:latest"))["system"] == "Rhyme."


async def test_what_is_inherited(library: Library) -> None:
    alone, store = library
    first = {
        "system": "a", "template": JINJA, "parameters": {"seed": 1, "stop": ["x"]}, "license": ["A", "B"],
        "messages": [{"role": "user", "content": "Hi"}], "renderer": "r", "parser": "p", "requires": "v1.0.0",
    }  # fmt: skip
    lines = await create(alone, from_="demo", **first)
    assert "renderer and parser are kept, but have no effect: vLLM brings its own" in [line["status"] for line in lines]
    await create(alone, model="same", from_="mine")
    expected = msgspec.structs.replace(await manifest(store), parent="mine:latest")
    assert await manifest(store, "same") == expected
    second = {
        "system": "b", "parameters": {"seed": 2}, "license": ["B", "C"], "requires": "2.0.0",
        "messages": [{"role": "Assistant", "content": "Ho"}], "template": "",
    }  # fmt: skip
    lines = await create(alone, model="other", from_="MINE", **second)
    assert await manifest(store, "other") == msgspec.structs.replace(
        expected, system="b", parameters={"seed": 2, "stop": ["x"]}, license=("A", "B", "C"), requires="2.0.0",
        messages=(("assistant", "Ho"),),
    )  # fmt: skip
    verbs = [line["status"].partition(" layer")[0] for line in lines]
    # Weights and template are as they were.
    assert verbs == ["using existing"] * 2 + ["creating new"] * 4 + ["writing manifest", "success"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"system": ' "quoted"', "parameters": {"stop": ["a\nb", '"'], "temperature": 0.5, "use_mmap": False}},
        {"template": JINJA + '\n"', "license": ["one", 'the "second"\n'], "requires": "0.14.0", "renderer": "r"},
        {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": 'Say\n"x"'}]},
        {"system": UNWRITABLE, "parameters": {"stop": [UNWRITABLE, "y"], "seed": 1}},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": UNWRITABLE}]},
    ],
)
async def test_the_modelfile_that_show_prints_makes_the_same_model(
    library: Library, tmp_path: Path, body: dict[str, Any]
) -> None:
    alone, store = library
    await create(alone, from_="demo", **body)
    shown = await show(alone)
    made = (await asyncio.to_thread(to_request, parse_modelfile(shown["modelfile"]), tmp_path)).body("again", {})
    assert (await create(alone, **made))[-1] == {"status": "success"}
    assert msgspec.structs.replace(await manifest(store, "again"), parent="demo:latest") == await manifest(store)
    again = await show(alone, "again")
    assert {key: again.get(key) for key in shown} | {"details": 0, "modified_at": 0, "modelfile": 0} == shown | {
        "details": 0, "modified_at": 0, "modelfile": 0,
    }  # fmt: skip
    assert again["modelfile"].replace("FROM again:latest", "FROM mine:latest") == shown["modelfile"]


async def test_the_template_that_ollama_shows_of_a_model_without_one(library: Library) -> None:
    alone, store = library
    await create(alone, from_="plain", template="{{ .Prompt }}")
    assert (await manifest(store)).template == ""


async def test_of_uploaded_files(library: Library) -> None:
    alone, store = library
    files = await upload_folder(alone, demo.CHAT)
    lines = await create(alone, files=files, system="Hi.")
    assert [line["status"] for line in lines[:2]] == [
        "converting model", f"using existing layer {next(iter(files.values()))}",
    ]  # fmt: skip
    assert await manifest(store) == Manifest(weights=Origin("files", files=files), system="Hi.")
    shown = await show(alone)
    assert shown["details"]["family"] == "qwen3"
    assert "tools" in shown["capabilities"]
    # What is made of it needs the files, too.
    await create(alone, model="child", from_="mine")
    await alone.api.request("DELETE", "/api/delete", json={"model": "mine"})
    assert (await show(alone, "child"))["details"]["parent_model"] in {"mine:latest", ""}
    await alone.api.request("DELETE", "/api/delete", json={"model": "child"})
    assert list((store.root / "blobs").iterdir()) == []
    assert list((store.root / "folders").iterdir()) == []


async def test_files_in_folders(library: Library) -> None:
    alone, _ = library
    files = await upload_folder(alone, demo.EMBED)
    pooling = demo.EMBED / "1_Pooling" / "config.json"
    files["1_Pooling/config.json"] = await upload(alone, pooling.read_bytes())
    assert (await create(alone, files=files))[-1] == {"status": "success"}
    assert (await show(alone))["capabilities"] == ["embedding"]


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"config.json": None}, 400, "mine:latest has weights but no config.json"),
        ({"config.json": b"{"}, 400, "mine:latest/config.json is not valid JSON"),
        ({"model.safetensors": b"half"}, 400, ""),
        ({"model.safetensors": None}, 400, "unknown type: upload *.safetensors files"),
        ({"model.safetensors": None, "weights": b"GGUF\0\0"}, 400, "weights: vLLM is not given GGUF files"),
    ],
)
async def test_uploads_are_checked_before_they_become_a_model(
    library: Library, change: dict[str, bytes | None], status: int, text: str
) -> None:
    alone, store = library
    content = {
        "config.json": json.dumps(QWEN3).encode(), "model.safetensors": safetensors({"a.weight": ("BF16", [8, 4])})
    } | change  # fmt: skip
    files = {name: await upload(alone, data) for name, data in content.items() if data is not None}
    response = await alone.api.post("/api/create", json={"model": "mine", "files": files, "stream": False})
    assert response.status_code == status
    assert response.json()["error"].startswith(text)
    assert str(store.root) not in response.text
    assert await names(store) == []


async def test_a_file_that_was_not_uploaded(library: Library) -> None:
    alone, _ = library
    digest = "sha256-" + "A" * 64
    response = await alone.api.post("/api/create", json={"model": "mine", "files": {"model.safetensors": digest}})
    assert response.status_code == 500
    assert response.json()["error"].startswith(f'model.safetensors: blob "sha256:{"a" * 64}" not found')


async def test_an_adapter_on_a_model(library: Library) -> None:
    alone, store = library
    files = await upload_folder(alone, demo.ADAPTER)
    lines = await create(alone, from_="demo", adapters=files, system="Squawk.")
    assert "converting adapter" in [line["status"] for line in lines]
    adapter = Origin("files", files=files)
    assert await manifest(store) == Manifest(weights=DEMO, adapter=adapter, parent="demo:latest", system="Squawk.")
    model = await alone.gateway.find(parse("mine"))
    base = await alone.gateway.find(parse("demo"))
    assert model is not None
    assert base is not None
    assert model.fault is None
    assert model.adapter is not None
    assert model.weights == base.weights
    await create(alone, model="child", from_="mine", system="Cheep.")
    assert await manifest(store, "child") == Manifest(
        weights=DEMO, adapter=adapter, parent="mine:latest", system="Cheep."
    )
    second = await alone.api.post("/api/create", json={"model": "x", "from": "child", "adapters": files})
    assert (second.status_code, second.json()) == (400, {"error": "only one adapter is currently supported"})


async def test_an_adapter_on_the_model_that_it_names(library: Library) -> None:
    alone, store = library
    files = await upload_folder(alone, demo.ADAPTER)
    assert (await create(alone, files=files))[-1] == {"status": "success"}
    assert await manifest(store) == Manifest(weights=DEMO, adapter=Origin("files", files=files), parent="demo:latest")
    settings = json.loads((demo.ADAPTER / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/gone"}
    files["adapter_config.json"] = await upload(alone, json.dumps(settings).encode())
    response = await alone.api.post("/api/create", json={"model": "x", "files": files, "stream": False})
    assert response.status_code == 400
    assert response.json()["error"].endswith("give the model that it was trained on as 'from', or FROM")


async def test_an_adapter_on_uploaded_files_outlives_the_name_of_its_base(library: Library) -> None:
    alone, _ = library
    await create(alone, model="base", files=await upload_folder(alone, demo.CHAT))
    await create(alone, from_="base", adapters=await upload_folder(alone, demo.ADAPTER))
    await alone.api.request("DELETE", "/api/delete", json={"model": "base"})
    model = await alone.gateway.find(parse("mine"))
    assert model is not None
    assert model.fault is None
    assert model.checkpoint is not None


async def test_an_adapter_that_can_only_be_merged(library: Library) -> None:
    alone, _ = library
    settings = json.loads((demo.ADAPTER / "adapter_config.json").read_text()) | {"use_dora": True}
    files = await upload_folder(alone, demo.ADAPTER)
    files["adapter_config.json"] = await upload(alone, json.dumps(settings).encode())
    lines = await create(alone, from_="demo", adapters=files)
    assert any("vllama merge mine" in line["status"] for line in lines)
    assert lines[-1] == {"status": "success"}


async def test_an_adapter_with_tokens_of_its_own_can_only_be_merged(library: Library) -> None:
    alone, store = library
    settings = json.loads((demo.ADAPTER / "adapter_config.json").read_text()) | {"target_modules": ["embed_tokens"]}
    embedding = "base_model.model.model.embed_tokens."
    shapes = {"lora_embedding_A": [8, 1290], "lora_embedding_B": [128, 8], "base_layer.weight": [1290, 128]}
    weights = safetensors({f"{embedding}{name}": ("BF16", shape) for name, shape in shapes.items()})
    files = {
        "adapter_config.json": await upload(alone, json.dumps(settings).encode()),
        "adapter_model.safetensors": await upload(alone, weights),
    }
    lines = await create(alone, from_="demo", adapters=files)
    assert any("1290 tokens, and there are 1280: run `vllama merge mine" in line["status"] for line in lines)
    assert await names(store) == ["mine:latest"]


async def test_of_a_model_that_is_not_here(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, store = library

    async def pull(name: ModelName, store: Store) -> AsyncGenerator[Progress, None]:
        yield Progress("pulling manifest")
        await asyncio.to_thread(store.write, name, Manifest(weights=DEMO, fetched=True))
        yield Progress("success")

    monkeypatch.setattr(routes, "pull", pull)
    lines = await create(alone, from_="far")
    statuses = [line["status"] for line in lines]
    assert statuses[0] == "pulling manifest"
    assert statuses.count("success") == 1
    assert await manifest(store) == Manifest(weights=DEMO, parent="far:latest", fetched=True)


async def test_of_a_model_that_is_nowhere(library: Library) -> None:
    alone, store = library
    lines = await create(alone, from_="nowhere")
    assert lines[0] == {"status": "pulling manifest"}
    assert "pull model manifest: file does not exist" in lines[-1]["error"]
    assert await names(store) == []


async def test_in_place_of_another(library: Library) -> None:
    alone, store = library
    await create(alone, files=await upload_folder(alone, demo.CHAT))
    await create(alone, model="MINE", from_="demo")
    assert await names(store) == ["mine:latest"]
    assert (await manifest(store)).weights == DEMO
    assert list((store.root / "blobs").iterdir()) == []


FROM = {"from": "demo"}
DIGEST = "sha256:" + "0" * 64


@each(
    ("body", "status", "text"),
    [
        ({"model": ""}, 400, "invalid model name"),
        ({"model": "a b"}, 400, "invalid model name"),
        (
            {"model": "RL:demo:mine"} | FROM,
            400,
            "invalid model name: RL:demo:mine reads as a training run's: begin with another word",
        ),
        ({"model": "x:cloud"} | FROM, 400, "invalid model name: x:cloud reads as a model of Ollama's cloud"),
        ({"files": {"/etc/passwd": DIGEST}, "model": ""}, 400, "file path must be relative"),
        ({"files": {"../x": DIGEST}}, 400, "file path must be relative"),
        ({"adapters": {"a/./x": DIGEST}} | FROM, 400, "file path must be relative"),
        ({"files": {"x": DIGEST, "x/y": DIGEST}}, 400, "file path 'x/y' cannot be"),
        ({"adapters": {"é" * 128: DIGEST}} | FROM, 400, f"file path '{'é' * 128}' cannot be"),
        ({"files": {"x": ""}, "model": ""}, 400, "invalid digest format"),
        ({"files": {"x": "sha256:0"}}, 400, "invalid digest format"),
        ({}, 400, "neither 'from' or 'files' was specified"),
        ({"files": {}}, 400, "neither 'from' or 'files' was specified"),
        ({"files": {"x.safetensors": DIGEST}} | FROM, 400, "files: give either these or 'from'"),
        ({"files": {"x.gguf": DIGEST}}, 400, "x.gguf: vLLM is not given GGUF files"),
        ({"adapters": {"x.GGUF": DIGEST}} | FROM, 400, "x.GGUF: vLLM is not given GGUF files"),
        ({"quantize": "q4_K_M"} | FROM, 400, "quantize: models are not quantised when they are created"),
        ({"quantization": "q4_K_M"} | FROM, 400, "quantize: models are not quantised when they are created"),
        ({"draft_files": {"x": DIGEST}} | FROM, 400, "draft_files: DRAFT is not supported"),
        ({"draft_quantize": "q8_0"} | FROM, 400, "--draft-quantize requires a DRAFT model"),
        ({"remote_host": "http://x"} | FROM, 400, "bad remote"),
        ({"from": "a b"}, 400, "invalid model name"),
        ({"from": "x:cloud"}, 403, "ollama cloud is disabled"),
        ({"template": "{{ .Prompt }}"} | FROM, 400, "template error: Go templates are not rendered"),
        ({"template": "{{ if .System }}"} | FROM, 400, "template error: Go templates are not rendered"),
        ({"requires": "new"} | FROM, 400, "requires must be a valid semver (e.g. 0.14.0)"),
        ({"parameters": {"seed": "x"}} | FROM, 400, 'parameters: option "seed" must be of type integer'),
        ({"messages": [{"role": "tool", "content": "x"}]} | FROM, 400, "messages[0].role: message role must be one of"),
        (
            {"messages": [{"role": "user", "images": ["x"]}]} | FROM,
            400,
            "messages[0]: a model's own messages",
        ),
        ({"info": {"model_family": 1}} | FROM, 400, 'info field "model_family" must be a string'),
        ({"info": {"context_length": "1"}} | FROM, 400, 'info field "context_length" must be a number'),
        (
            {"info": {"embedding_length": 0.5}} | FROM,
            400,
            'info field "embedding_length" must be a non-negative integer',
        ),
        ({"info": {"context_length": -1}} | FROM, 400, 'info field "context_length" must be a non-negative integer'),
        ({"info": {"capabilities": ["tools", 1]}} | FROM, 400, 'info field "capabilities" must be an array of strings'),
        ({"license": 1} | FROM, 400, "invalid request: license: expected"),
        ({"model": "Demo"} | FROM, 400, "demo:latest is one of the server's own models"),
    ],
)
@each("stream", [True, False])
async def test_refusals(library: Library, body: dict[str, Any], status: int, text: str, stream: bool) -> None:
    alone, store = library
    response = await alone.api.post("/api/create", json={"model": "mine", "stream": stream} | body)
    assert response.status_code == status
    assert response.json()["error"].startswith(text)
    assert await names(store) == []


async def test_all_info(library: Library) -> None:
    alone, _ = library
    info = {
        "capabilities": ["tools"],
        "model_family": "x",
        "context_length": 8,
        "base_name": "",
        "parameter_size": None,
    }
    assert (await create(alone, from_="demo", info=info))[-1] == {"status": "success"}


async def test_before_a_server_that_somebody_else_runs(alone: Alone) -> None:
    alone.gateway.attached = EngineClient("http://127.0.0.1:9", None)
    response = await alone.api.post("/api/create", json={"model": "mine", "from": "demo"})
    assert response.status_code == 400
    assert response.json()["error"].endswith("given as --engine-url: change them there")


async def test_the_official_client(library: Library) -> None:
    alone, store = library
    async with ollama.AsyncClient(host=alone.url) as client:
        made = await client.create(
            "mine", from_="demo", system="Rhyme.", parameters={"temperature": 0.5}, license=["MIT"],
            messages=[ollama.Message(role="user", content="Hi")],
        )  # fmt: skip
        assert made.status == "success"
        assert (await client.show("mine")).parameters is not None
        files = {path.name: await client.create_blob(path) for path in demo.CHAT.iterdir()}
        events: AsyncIterator[ollama.ProgressResponse] = await client.create("of-files", files=files, stream=True)
        statuses = [event.status async for event in events]
        assert (statuses[0], statuses[-1]) == ("converting model", "success")
        listed = {model.model: model for model in (await client.list()).models}
        assert listed["of-files:latest"].size == listed["demo:latest"].size
        assert (await client.copy("of-files", "me/copy:1")).status == "success"
        assert (await client.delete("of-files")).status == "success"
        assert (await client.show("me/copy:1")).details is not None
        with pytest.raises(ollama.ResponseError, match="model 'of-files' not found"):
            await client.delete("of-files")
        with pytest.raises(ollama.ResponseError, match="neither 'from' or 'files' was specified"):
            await client.create("nothing")
    assert await names(store) == ["me/copy:1", "mine:latest"]
