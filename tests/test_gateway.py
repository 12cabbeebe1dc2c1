"""What the routes share, and the gateway before a server that somebody else runs."""

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import ollama
import pytest

from tests.conftest import Serve
from tests.fake_engine import FakeEngine, Stream, chat_events, hang_up, model_list, refusal
from vllama import gateway as gateway_module
from vllama.engine.install import Environment
from vllama.engine.profile import Profile
from vllama.gateway import Gateway, modified
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.routes._failures import DIED
from vllama.scheduling.attached import AttachedScheduler
from vllama.server import attached_app, local_app
from vllama.settings import Settings

SAY = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
async def attached(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway before `engine` as a server that somebody else runs."""
    async with client_of(Settings(engine_url=engine.url, engine_api_key="secret")) as client:
        yield client


@contextlib.asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = attached_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client,
    ):
        yield client


async def names(client: httpx.AsyncClient) -> list[str]:
    return [entry["name"] for entry in (await client.get("/api/tags")).json()["models"]]


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("demo", "demo:latest"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B:latest"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("/srv/models/My Model", "My-Model:latest"),
        ("modèle", "modele:latest"),
        ("a/b/c/d", "d:latest"),
    ],
)
async def test_a_servers_model_gets_a_name_and_is_asked_for_by_its_own(
    attached: httpx.AsyncClient, engine: FakeEngine, identifier: str, name: str
) -> None:
    engine.script(model_list(identifier))
    assert await names(attached) == [name]
    engine.script(Stream(*chat_events("Hello")))
    response = await attached.post("/api/chat", json={"model": name.upper(), "messages": SAY})
    assert response.status_code == 200
    assert f'"model":"{name.upper()}"' in response.text
    assert engine.last_body["model"] == identifier
    assert engine.asked[-1].headers["Authorization"] == "Bearer secret"


async def test_ids_that_read_as_one_name_are_all_reachable(
    attached: httpx.AsyncClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    identifiers = ["/srv/a/demo", "Demo", "demo", "/srv/b/demo", "demo", "x:cloud"]
    engine.script(model_list(*identifiers), model_list(*identifiers))
    with caplog.at_level(logging.INFO, "vllama"):
        listed = await names(attached)
        assert await names(attached) == listed
    assert listed[0] == "Demo:latest", "an id that is a name keeps it"
    assert len({name.lower() for name in listed}) == 5, "the same id twice is one model"
    assert len(caplog.messages) == 3, "logged once"
    assert f"/srv/b/demo is called {listed[3]}, as Demo has its name" in caplog.messages
    for name, identifier in zip(listed, ["Demo", "demo", "/srv/a/demo", "/srv/b/demo", "x:cloud"], strict=True):
        engine.script(Stream(*chat_events("Hello")))
        assert (await attached.post("/api/chat", json={"model": name, "messages": SAY})).status_code == 200
        assert engine.last_body["model"] == identifier


@pytest.mark.parametrize("name", ["hf.co/some/Model", "https://huggingface.co/Some/Model:latest", "Some/model"])
async def test_a_hub_repositorys_model_by_its_address(
    attached: httpx.AsyncClient, engine: FakeEngine, name: str
) -> None:
    engine.script(model_list("Some/Model"), Stream(*chat_events("Hello")))
    response = await attached.post("/api/chat", json={"model": name, "messages": SAY})
    assert response.status_code == 200
    assert f'"model":"{name}"' in response.text


async def test_a_name_comes_before_a_repository_and_a_tag_is_another_format() -> None:
    mine = Model(parse("mine"), source="Some/Model", engine_name="mine")
    namesake = Model(parse("Some/Model"), source="/a/folder", engine_name="namesake")
    catalogue = Catalogue([mine, namesake])
    gateway = Gateway(catalogue, AttachedScheduler(None, catalogue))  # type: ignore[arg-type]
    assert await gateway.find(parse("some/model")) is namesake
    assert await gateway.find(parse("hf.co/some/model")) is mine
    assert await gateway.find(parse("hf.co/some/model:Q4_K_M")) is None
    assert await gateway.find(parse("localhost:5000/some/model")) is None


async def test_what_is_told_of_a_servers_model(attached: httpx.AsyncClient, engine: FakeEngine) -> None:
    models = model_list("demo", context_length=2048)
    engine.script(models, models, models)
    (tag,) = (await attached.get("/api/tags")).json()["models"]
    assert tag["details"]["context_length"] == 2048
    assert len(tag["digest"]) == 64
    assert (await attached.get("/v1/models")).json()["data"][0]["id"] == "demo:latest"
    shown = (await attached.post("/api/show", json={"model": "demo"})).json()
    assert shown["model_info"][f"{shown['model_info']['general.architecture']}.context_length"] == 2048
    (running,) = (await attached.get("/api/ps")).json()["models"]
    assert (running["name"], running["context_length"]) == ("demo:latest", 2048)


async def test_the_servers_list_is_read_when_a_name_is_unknown(attached: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script(model_list("old"), model_list("new", "other"), model_list("new"))
    assert (await attached.post("/api/show", json={"model": "old"})).status_code == 200
    assert (await attached.post("/api/show", json={"model": "new"})).status_code == 200
    assert (await attached.post("/api/show", json={"model": "new"})).status_code == 200  # known: nothing is asked
    missing = await attached.post("/api/show", json={"model": "old"})
    assert (missing.status_code, missing.json()) == (404, {"error": "model 'old:latest' not found"})
    assert [asked.path for asked in engine.asked] == 3 * ["/v1/models"]


async def test_all_of_a_servers_models_are_loaded(attached: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script(model_list("demo", "other"))
    running = (await attached.get("/api/ps")).json()["models"]
    assert [entry["name"] for entry in running] == ["demo:latest", "other:latest"]
    assert {datetime.fromisoformat(entry["expires_at"]).year > 2250 for entry in running} == {True}


async def test_nothing_of_a_server_is_unloaded(attached: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script(model_list("demo"), model_list("demo"))
    reply = await attached.post("/api/generate", json={"model": "demo", "keep_alive": 0})
    assert reply.json()["done_reason"] == "unload"
    assert [entry["name"] for entry in (await attached.get("/api/ps")).json()["models"]] == ["demo:latest"]


REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/api/tags", None),
    ("GET", "/api/ps", None),
    ("GET", "/v1/models", None),
    ("POST", "/api/show", {"model": "demo"}),
    ("POST", "/api/chat", {"model": "demo", "messages": SAY}),
    ("POST", "/v1/chat/completions", {"model": "demo", "messages": SAY}),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_a_server_that_cannot_be_reached(method: str, path: str, body: Any) -> None:
    async with client_of(Settings(engine_url="http://127.0.0.1:1")) as client:
        response = await client.request(method, path, **({"json": body} if body else {}))
    assert response.status_code == 502
    error = response.json()["error"]
    text = error["message"] if path.startswith("/v1") else error
    assert text.startswith("the server at http://127.0.0.1:1 does not list its models: the engine cannot be reached")
    assert text.endswith("; check that it runs, and --engine-url")


async def test_a_server_that_refuses_the_key(attached: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script(refusal(401, "Unauthorized", "AuthenticationError"))
    response = await attached.get("/api/tags")
    assert response.status_code == 502
    assert "/v1/models answered 401" in response.json()["error"]
    assert "secret" not in response.text


async def test_the_official_client_before_a_server(serve: Serve, engine: FakeEngine) -> None:
    engine.script(model_list("Qwen/Qwen3-4B"), Stream(*chat_events("Hel", "lo")))
    async with serve(attached_app(Settings(engine_url=engine.url))) as url, ollama.AsyncClient(host=url) as client:
        (listed,) = (await client.list()).models
        parts = [part async for part in await client.chat(listed.model or "", SAY, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "Hello"


async def test_models_are_sorted_by_their_last_change(models: dict[str, Model]) -> None:
    catalogue = Catalogue([*models.values(), Model(parse("unknown"), source="x/y", engine_name="unknown:latest")])
    catalogue.created += timedelta(days=1)
    gateway = Gateway(catalogue, AttachedScheduler(None, catalogue))  # type: ignore[arg-type]
    listed = await gateway.models()
    assert listed[0].name.model == "unknown", "as new as the catalogue, as nothing is known of its files"
    changed = [modified(catalogue, model) for model in listed]
    assert changed == sorted(changed, reverse=True)


@pytest.mark.parametrize(("profile", "on_gpu"), [(Profile.CPU, False), (Profile.CUDA, True)])
def test_where_models_run(tmp_path: Path, profile: Profile, on_gpu: bool) -> None:
    flags = tmp_path / "flags.json"
    flags.write_text('{"flags": []}')
    environment = Environment(Path("/engine/bin/python"), "0.32.0", profile, flags)
    with contextlib.ExitStack() as stack:
        gateway: Gateway = local_app(Settings(home=tmp_path), Catalogue([]), environment, stack).state.gateway
    assert gateway.on_gpu is on_gpu


def test_a_note_is_logged_once_for_each_key(caplog: pytest.LogCaptureFixture) -> None:
    catalogue = Catalogue([])
    gateway = Gateway(catalogue, AttachedScheduler(None, catalogue))  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, "vllama"):
        for key in ("a", "a", "b"):
            gateway.note_once(key, f"about {key}")
    assert caplog.messages == ["about a", "about b"]


class Shelf:
    """A shelf of one model, as another process may change it. looks: how often it was looked at."""

    def __init__(self) -> None:
        self.source, self.looks = "first", 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, _known: Mapping[str, Model]) -> Iterator[Model]:
        self.looks += 1
        found = self.source
        self.may_answer.wait(5)
        yield Model(parse("found"), source=found, engine_name="found")


async def test_those_who_ask_at_once_share_a_look_at_the_disk() -> None:
    shelf = Shelf()
    catalogue = Catalogue([], [shelf])
    gateway = Gateway(catalogue, AttachedScheduler(None, catalogue))  # type: ignore[arg-type]
    shelf.may_answer.clear()
    first = asyncio.create_task(gateway.find(parse("found")))
    while not shelf.looks:
        await asyncio.sleep(0.001)
    shelf.source = "second"
    others = [asyncio.create_task(gateway.find(parse(name))) for name in ["found", "unknown"] * 10]
    await asyncio.sleep(0)
    shelf.may_answer.set()
    model = await first
    assert model is not None
    assert model.source == "first"
    found = [model and model.source for model in await asyncio.gather(*others)]
    assert found == ["second", None] * 10, "what began before they asked may have missed what they ask for"
    assert shelf.looks == 2


class Loads(AttachedScheduler):
    """ready: whether an engine has whatever is asked for."""

    ready = False

    def serves(self, model: Model) -> bool:
        return self.ready


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is over for a second when the next is asked for."""
    times = itertools.count(1000.0, 1.1)
    monkeypatch.setattr(gateway_module, "time", SimpleNamespace(monotonic=lambda: next(times)))  # not the loop's


@pytest.mark.usefixtures("later")
async def test_what_another_process_changed_is_seen_a_second_later() -> None:
    shelf = Shelf()
    catalogue = Catalogue([], [shelf])
    gateway = Gateway(catalogue, Loads(None, catalogue))  # type: ignore[arg-type]
    assert await source_of(gateway) == "first"
    shelf.source = "second"
    assert await source_of(gateway) == "second"


async def test_what_was_just_seen_is_not_looked_at_again() -> None:
    shelf = Shelf()
    catalogue = Catalogue([], [shelf])
    gateway = Gateway(catalogue, Loads(None, catalogue))  # type: ignore[arg-type]
    for _ in range(3):
        assert await source_of(gateway) == "first"
    assert shelf.looks == 1


@pytest.mark.usefixtures("later")
async def test_whose_engine_is_ready_does_not_wait_for_the_disk() -> None:
    shelf = Shelf()
    catalogue = Catalogue([], [shelf])
    scheduler = Loads(None, catalogue)  # type: ignore[arg-type]
    gateway = Gateway(catalogue, scheduler)
    assert await source_of(gateway) == "first"
    scheduler.ready, shelf.source = True, "second"
    shelf.may_answer.clear()
    assert [await source_of(gateway) for _ in range(3)] == ["first"] * 3
    shelf.may_answer.set()
    while await source_of(gateway) == "first":
        await asyncio.sleep(0.001)
    assert await source_of(gateway) == "second"


async def source_of(gateway: Gateway) -> str:
    model = await gateway.find(parse("found"))
    assert model is not None
    return model.source


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_a_server_that_hangs_up(attached: httpx.AsyncClient, engine: FakeEngine, path: str, stream: bool) -> None:
    """It is not asked again, and every client reads the same."""
    engine.script(model_list("demo"), hang_up, hang_up)  # the first one may be a connection that was idle
    response = await attached.post(path, json={"model": "demo", "messages": SAY, "max_tokens": 9, "stream": stream})
    assert response.status_code == 500
    assert f"{DIED}: the engine cannot be reached (it closed the connection)" in response.text
