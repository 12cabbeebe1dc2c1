"""Fixtures for all tests: the demo models, engines that answer for them, and gateways on real ports."""

import asyncio
import contextlib
import functools
import gc
import json
import os
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
import uvicorn
from blockbuster import BlockBuster
from starlette.applications import Starlette
from xdist.scheduler import LoadScopeScheduling

from tests import robot, served
from tests.fake_engine import RECORDING, EngineInPlace, EnginesInPlace, FakeEngine, Recordings
from vllama import demo
from vllama.app import create_app
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.models.inspect import inspect
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.models.sources import Inspector, cached_models, read_models, stored_models
from vllama.models.store import Store
from vllama.protocol import Protocol
from vllama.scheduling.local import LocalScheduler

# The processes that these tests start would each compile all that they import.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has it ignored by what runs in the background, and all that these tests start would do so too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each client of plain HTTP, too, reads the authorities' certificates, which takes longer than most of what it asks for.
ssl.create_default_context = functools.cache(ssl.create_default_context)


# So many objects come and go in the tests that looking for cycles took a twentieth of the time.
gc.set_threshold(20_000)


def pytest_collection_finish() -> None:
    gc.freeze()  # some tests look for what was left behind: the tests themselves were not


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for all tests; a few tests, and the recorder with its engine, do better in one."""
    return 2 if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not RECORDING else 0


ENGINE_TESTS = ("tests/clients/", "tests/e2e/")


OFFICIAL_CLIENTS = tuple(f"tests/routes/test_{name}.py" for name in ("lost_engines_clients", "openai", "responses"))
UNITS = {"engine": ENGINE_TESTS, "clients": OFFICIAL_CLIENTS}
"""What several files share: an engine; clients whose import takes seconds."""


class _Files(LoadScopeScheduling):
    """Hands out tests by units, and else by files."""

    def _split_scope(self, nodeid: str) -> str:
        units = (unit for unit, starts in UNITS.items() if nodeid.startswith(starts))
        return next(units, nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Files:
    return _Files(config, log)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without an engine, the clients of others are not even imported, which takes seconds."""
    folder = f"{collection_path.relative_to(config.rootpath)}/"
    return True if config.option.markexpr == "not engine" and folder in ENGINE_TESTS else None


LONGEST_FIRST = (
    ENGINE_TESTS,
    ("tests/test_quality.py",),  # mypy, the first time
    ("tests/test_properties.py", "tests/test_cancellation.py", "tests/test_overload.py", "tests/engine/"),
    OFFICIAL_CLIENTS,
    ("tests/models/test_hub.py", "tests/routes/test_pulls.py", "tests/test_server.py", "tests/cli/test_chat.py"),
)
"""So that two processes end at about the same time. What is not named here takes a second or two."""


def _turn(item: pytest.Item) -> int:
    turns = enumerate(LONGEST_FIRST)
    return next((turn for turn, starts in turns if item.nodeid.startswith(starts)), len(LONGEST_FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    for item in items:
        assert item.get_closest_marker("engine") or not item.nodeid.startswith(ENGINE_TESTS), item.nodeid
    if RECORDING:
        for item in items:
            item.add_marker(pytest.mark.timeout(1200))  # a real engine is built and started inside a test


@pytest.fixture(scope="session", name="demo")
def served_demo() -> Iterator[served.Served]:
    """The demo models on real engines, and another adapter: one gateway for the whole run."""
    shutil.rmtree(served.ENGINE_HOME / "models", ignore_errors=True)  # what an earlier run left there
    with served.serve("--lora", f"robot={robot.FOLDER}@demo", "--preload", "demo") as gateway:
        yield gateway


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """demo; demo-embed; plain, which is demo without its chat template. Ollama's sampling defaults hold for all."""
    root = tmp_path_factory.mktemp("models")
    folders = {"demo": root / "demo", "demo-embed": demo.EMBED, "plain": root / "plain"}
    shutil.copytree(demo.CHAT, folders["demo"])
    shutil.copytree(demo.CHAT, folders["plain"], ignore=shutil.ignore_patterns("chat_template*"))
    for name in ("demo", "plain"):
        generation = folders[name] / "generation_config.json"
        said = json.loads(generation.read_text())
        generation.write_text(json.dumps({key: value for key, value in said.items() if key.endswith("_token_id")}))
    return {name: local_model(name, folder) for name, folder in folders.items()}


def local_model(name: str, folder: Path) -> Model:
    parsed = parse(name)
    return Model(parsed, source=str(folder), engine_name=parsed.short, checkpoint=inspect(folder))


class _Server(uvicorn.Server):
    """uvicorn's, which leaves the signal handlers to pytest."""

    capture_signals = staticmethod(contextlib.nullcontext)


@contextlib.asynccontextmanager
async def _serve(app: Starlette) -> AsyncIterator[str]:
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, lifespan="on", ws="none", http=Protocol, log_config=None, access_log=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            assert not task.done(), task.result()
            await asyncio.sleep(0.001)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


Serve = Callable[[Starlette], AbstractAsyncContextManager[str]]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """`async with serve(app) as url`: the app on a free port."""
    return _serve


class Engines(EnginesInPlace):
    """A fake engine for each model's weights, replaying its recordings, or filling them from a real one."""

    def __init__(self) -> None:
        super().__init__(self._place)
        self.fakes: dict[str, FakeEngine] = {}
        self._by_weights: dict[str, FakeEngine] = {}

    def add(self, name: str, model: Model, fake: FakeEngine) -> None:
        self.fakes[name] = self._by_weights[model.weights] = fake

    def _place(self, model: Model) -> EngineInPlace:
        assert model.checkpoint is not None
        url, length = self._by_weights[model.weights].url, model.checkpoint.context_length
        return EngineInPlace(url, name=model.engine_name, context_length=length)

    def __getitem__(self, name: str) -> FakeEngine:
        return self.fakes[name]


@pytest.fixture(scope="session")
async def recorded_engines(models: dict[str, Model]) -> AsyncIterator[Engines]:
    async with contextlib.AsyncExitStack() as stack:
        engines = Engines()
        if RECORDING:
            from tests.recorder import Recorder

            recorder = Recorder(Catalogue(models.values()))
            stack.push_async_callback(recorder.close)
        for name, model in models.items():
            fake, recordings = FakeEngine(), Recordings(name)
            fake.answer = recorder.record(fake, model, recordings) if RECORDING else fake.replay(recordings)
            await fake.start()
            stack.push_async_callback(fake.stop)
            if RECORDING:
                stack.callback(recordings.save)
            engines.add(name, model, fake)
        yield engines


@pytest.fixture(scope="session")
def blockbuster() -> BlockBuster:
    return BlockBuster("vllama")


@pytest.fixture
def no_blocking(blockbuster: BlockBuster) -> Iterator[None]:
    """Fails a test in which the gateway's code blocks the event loop."""
    if not RECORDING:
        blockbuster.activate()
    yield
    blockbuster.deactivate()


@pytest.fixture
def engines(recorded_engines: Engines, no_blocking: None) -> Iterator[Engines]:
    """The engines behind `api`. A test fails where they were asked what was never recorded."""
    for fake in recorded_engines.fakes.values():
        fake.asked.clear()
        fake.unmatched.clear()
    yield recorded_engines
    for fake in recorded_engines.fakes.values():
        fake.scripts.clear()
        if fake.unmatched:
            pytest.fail("\n".join(fake.unmatched), pytrace=False)


@pytest.fixture(scope="session")
async def gateway_url(models: dict[str, Model], recorded_engines: Engines) -> AsyncIterator[str]:
    scheduler = LocalScheduler(recorded_engines, keep_alive=300.0, max_queue=16)
    async with _serve(create_app(Gateway(Catalogue(models.values()), scheduler))) as url:
        yield url


@pytest.fixture
async def api(gateway_url: str, engines: Engines) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway before the recorded engines; models stay loaded from test to test."""
    async with httpx.AsyncClient(base_url=gateway_url, timeout=1200 if RECORDING else 20, trust_env=False) as client:
        yield client


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    """An engine of this test alone, which answers what the test scripts."""
    fake = FakeEngine()
    await fake.start()
    yield fake
    await fake.stop()
    assert not fake.scripts, "not all that was scripted was asked for"
    if fake.unmatched:
        pytest.fail("\n".join(fake.unmatched), pytrace=False)


@dataclass
class Alone:
    """A gateway of one test before `engine`, which it unloads as soon as nobody uses it.

    places: the engines that it started, each before `engine`. next_place: how the next one is made.
    """

    url: str
    api: httpx.AsyncClient
    engine: FakeEngine
    places: list[EngineInPlace]
    next_place: dict[str, Any]
    scheduler: LocalScheduler
    gateway: Gateway

    @property
    def place(self) -> EngineInPlace:
        return self.places[-1]


@pytest.fixture(scope="session")
async def empty_app(serve: Serve) -> AsyncIterator[tuple[Starlette, str]]:
    """An app on a port whose gateway each test brings: a server of its own for each would take too long."""
    app = create_app(Gateway(Catalogue([]), LocalScheduler(EnginesInPlace(_no_engine), keep_alive=0.0, max_queue=1)))
    async with serve(app) as url:
        yield app, url


def _no_engine(_model: Model) -> NoReturn:
    raise AssertionError


@pytest.fixture
async def alone(
    models: dict[str, Model], engine: FakeEngine, empty_app: tuple[Starlette, str], no_blocking: None
) -> AsyncIterator[Alone]:
    places: list[EngineInPlace] = []
    next_place: dict[str, Any] = {}

    def place(model: Model) -> EngineInPlace:
        places.append(EngineInPlace(engine.url, name=model.engine_name, **next_place))
        return places[-1]

    app, url = empty_app
    scheduler = LocalScheduler(EnginesInPlace(place), keep_alive=0.0, max_queue=2)
    app.state.gateway = gateway = Gateway(Catalogue(models.values()), scheduler)
    async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as api:
        yield Alone(url, api, engine, places, next_place, scheduler, gateway)
    await scheduler.close()


@pytest.fixture(scope="session")
def own_models(models: dict[str, Model]) -> list[Model]:
    """As a server has them that is started with the demo models."""
    return [*read_models(["demo", "demo-embed"], (), Inspector()), models["plain"]]


@pytest.fixture
def library(
    alone: Alone, own_models: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Alone, Store]:
    """`alone` with a store, and a cache of the hub, in which there is nothing yet."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    store, inspector = Store(tmp_path / "models"), Inspector()

    def taken() -> Iterator[str]:
        for stored in store:
            yield from (origin.name for origin in (stored.manifest.weights, stored.manifest.adapter) if origin)

    shelves = [stored_models(store, inspector), cached_models(inspector, taken)]
    alone.gateway.store, alone.gateway.catalogue = store, Catalogue(own_models, shelves)
    return alone, store
