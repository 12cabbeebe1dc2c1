"""From a model to its engine's launch plan: address, command line, weights."""

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vllama.engine import loader as loader_module
from vllama.engine.engine import State
from vllama.engine.footprint import GIB
from vllama.engine.install import Environment
from vllama.engine.loader import Loader
from vllama.engine.memory import Memory
from vllama.engine.plan import LaunchPlan
from vllama.engine.profile import Profile
from vllama.engine.progress import Progress
from vllama.errors import ConfigError, DoesNotFitError, EngineError
from vllama.models import hub
from vllama.models.adapters import Adapter
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.models.store import Manifest, Origin, Stored
from vllama.scheduling.plan import AdapterLimits, Demand
from vllama.settings import Settings

ENVIRONMENT = Environment(Path("/engine/bin/python"), "0.32.0", Profile.CUDA, Path("/engine/flags.json"))

ADAPTER = Adapter(Path("/adapters/parrot"), "demo", 8, 1000, "0" * 64, datetime.now(UTC), ("q_proj",))


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which sockets' folders are made."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def make_loader(tmp_path: Path, *models: Model, **settings: Any) -> Loader:
    return Loader(Settings(home=tmp_path, **settings), ENVIRONMENT, Catalogue(models))


def plan_of(loader: Loader, model: Model, share: int | None = None) -> LaunchPlan:
    return loader.engine(model, share)._plan


def value_of(plan: LaunchPlan, flag: str) -> str | None:
    return plan.command[plan.command.index(flag) + 1] if flag in plan.command else None


def test_a_plan(tmp_path: Path, models: dict[str, Model]) -> None:
    plan = plan_of(make_loader(tmp_path, load_timeout=7.0), models["demo"])
    assert plan.command[:5] == ["/engine/bin/python", "-m", "vllama_engine", "serve", "--"]
    assert value_of(plan, "--model") == models["demo"].source
    assert value_of(plan, "--served-model-name") == plan.name == "demo:latest"
    assert (plan.log, plan.stall_timeout) == (tmp_path / "logs" / "demo-latest.log", 7.0)
    assert plan.variables["PYTHONUNBUFFERED"] == "1"


def test_sockets_lie_in_a_private_folder(tmp_path: Path, models: dict[str, Model], runtime: Path) -> None:
    loader = make_loader(tmp_path)
    plans = [plan_of(loader, models[name]) for name in ("demo", "demo", "demo-embed")]
    sockets = [Path(value_of(plan, "--uds") or "") for plan in plans]
    assert [plan.url for plan in plans] == [f"unix:{path}" for path in sockets]
    assert len(set(sockets)) == 3
    (folder,) = {path.parent for path in sockets}
    assert folder.parent == runtime
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    loader.close()
    assert not folder.exists()
    loader.close()


def test_a_port_of_vllms(tmp_path: Path, models: dict[str, Model]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        loader = make_loader(tmp_path, vllm_port=port)
        text = rf"vLLM cannot listen on port {port} \(Address already in use\): choose another with --vllm-port"
        with pytest.raises(ConfigError, match=text):
            loader.engine(models["demo"], None)
    plan = plan_of(loader, models["demo"])
    assert (plan.url, value_of(plan, "--port")) == (f"http://127.0.0.1:{port}", str(port))
    assert "--uds" not in plan.command


@pytest.mark.parametrize(
    ("settings", "tools", "reasoning"),
    [
        ({}, "hermes", "qwen3"),
        ({"tool_call_parser": "pythonic"}, "pythonic", "qwen3"),
        ({"tool_call_parser": "none"}, None, "qwen3"),
        ({"reasoning_parser": "deepseek_r1"}, "hermes", "deepseek_r1"),
        ({"reasoning_parser": "none"}, "hermes", None),
    ],
)
def test_parsers(
    tmp_path: Path, models: dict[str, Model], settings: dict[str, str], tools: str | None, reasoning: str | None
) -> None:
    model = models["demo"]
    assert model.checkpoint is not None
    parsers = replace(model.checkpoint.parsers, tool_call="hermes", reasoning="qwen3")
    model = replace(model, checkpoint=replace(model.checkpoint, parsers=parsers))
    plan = plan_of(make_loader(tmp_path, **settings), model)
    assert (value_of(plan, "--tool-call-parser"), value_of(plan, "--reasoning-parser")) == (tools, reasoning)
    assert ("--enable-auto-tool-choice" in plan.command) is (tools is not None)


async def test_a_model_that_is_not_here_is_downloaded(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    async def download(repo: str, *, revision: str | None, report: Any) -> Path:
        asked.append(repo)
        for completed in (0, 1, 15, 16, 100):
            report(hub.DownloadProgress("downloading", completed * 10**9, 100 * 10**9))
        report(hub.DownloadProgress("listing"))
        return Path(models["demo"].source)

    monkeypatch.setattr(hub, "download", download)
    caplog.set_level("INFO", "vllama.engine")
    model = Model(parse("some/where"), source="Some/Where", engine_name="some/where")
    loader = make_loader(tmp_path, model)
    reported, progress = list[tuple[float | None, str]](), Progress()
    progress.on_change = lambda: reported.append((progress.fraction, progress.detail))
    known = await loader.fetch(model, progress)
    engine = loader.engine(known, None)
    assert known.checkpoint == models["demo"].checkpoint
    assert loader._catalogue.find(model.name) == known
    assert value_of(engine._plan, "--model") == models["demo"].source
    assert engine._plan.log.name == "some-where.log"
    logged = [record.message.partition("downloaded ")[2] for record in caplog.records if "%" in record.message]
    assert logged == ["0 % of 100.0 GB", "10 % of 100.0 GB", "100 % of 100.0 GB"]
    assert (len(reported), reported[2]) == (5, (0.15, "15.0 of 100.0 GB"))
    assert await loader.fetch(known, Progress()) is known
    assert asked == ["Some/Where"]


@pytest.mark.parametrize("revision", ["abc", ""])
async def test_the_commit_that_a_manifest_names_is_downloaded(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    asked: list[str | None] = []

    async def download(_repo: str, *, revision: str | None, report: Any) -> Path:
        asked.append(revision)
        return Path(models["demo"].source)

    monkeypatch.setattr(hub, "download", download)
    name = parse("some/where")
    manifest = Manifest(weights=Origin("hub", "Some/Where", revision))
    stored = Stored(name, manifest, "0" * 64, datetime.now(UTC))
    model = Model(name, source="Some/Where", engine_name="some/where", stored=stored)
    await make_loader(tmp_path, model).fetch(model, Progress())
    assert asked == [revision or None]


async def test_a_download_that_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def download(*_: Any, **__: Any) -> Path:
        return tmp_path

    monkeypatch.setattr(hub, "download", download)
    model = Model(parse("some/where"), source="Some/Where", engine_name="some/where")
    loader = make_loader(tmp_path, model)
    with pytest.raises(ConfigError, match="is empty"):
        await loader.fetch(model, Progress())
    assert loader._catalogue.find(model.name) == model


def test_models_on_the_same_weights_have_one_engine(tmp_path: Path, models: dict[str, Model]) -> None:
    """Whichever is asked for first, vLLM knows the weights by their own name and has room for the adapter."""
    demo = models["demo"]
    parrot = replace(demo, name=parse("parrot"), engine_name="adapter-1", adapter=ADAPTER)
    loader = make_loader(tmp_path, parrot, demo)
    commands = [plan_of(loader, model).command for model in (demo, parrot)]
    socket_at = commands[0].index("--uds") + 1
    assert commands[0][:socket_at] == commands[1][:socket_at]
    assert commands[0][socket_at + 1 :] == commands[1][socket_at + 1 :]
    engine = loader.engine(parrot, None)
    assert (engine.name, engine.adapters) == ("demo:latest", AdapterLimits(16, 16))
    assert "--enable-lora" in commands[0]
    assert engine._plan.variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert loader.engine(models["plain"], None).adapters is None


def test_an_adapter_whose_base_has_no_name(tmp_path: Path, models: dict[str, Model]) -> None:
    parrot = Model(parse("parrot"), "Qwen/Qwen3-4B", "adapter-1", models["demo"].checkpoint, adapter=ADAPTER)
    assert plan_of(make_loader(tmp_path, parrot), parrot).name == "Qwen/Qwen3-4B"


@pytest.mark.parametrize(
    ("settings", "others", "sleeps"),
    [
        ({}, ["plain"], True),
        ({}, [], False),
        ({"vllm_args": ["--no-enable-sleep-mode"]}, ["plain"], False),
        ({"vllm_port": 1}, ["plain"], False),
    ],
    ids=["other weights", "nothing to make room for", "the user's word", "a port that others reach"],
)
def test_who_is_started_to_sleep(
    tmp_path: Path,
    models: dict[str, Model],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    others: list[str],
    sleeps: bool,
) -> None:
    monkeypatch.setattr(loader_module, "_check_port_free", lambda _: None)
    loader = make_loader(tmp_path, models["demo"], *(models[name] for name in others), **settings)
    plan = plan_of(loader, models["demo"])
    assert ("--enable-sleep-mode" in plan.command) is sleeps
    assert ("VLLM_SERVER_DEV_MODE" in plan.variables) is sleeps
    assert models["demo"].checkpoint is not None
    assert plan.sleep_size == (int(1.25 * models["demo"].checkpoint.size) if sleeps else None)


def test_a_cpu_engine_never_sleeps(tmp_path: Path, models: dict[str, Model]) -> None:
    loader = Loader(Settings(home=tmp_path), replace(ENVIRONMENT, profile=Profile.CPU), Catalogue(models.values()))
    plan = plan_of(loader, models["demo"])
    assert ("--enable-sleep-mode" in plan.command, plan.sleep_size) == (False, None)


def test_a_start_profile(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(make_loader(tmp_path), models["demo"])
    assert value_of(plan, "--cudagraph-capture-sizes") == "1"
    assert "-O0" in plan_of(make_loader(tmp_path, startup="fast"), models["demo"]).command
    monkeypatch.setattr(loader_module, "has_compiler", lambda: False)
    on_cpu = replace(ENVIRONMENT, profile=Profile.CPU)
    plan = plan_of(Loader(Settings(home=tmp_path, startup="throughput"), on_cpu, Catalogue([])), models["demo"])
    assert "--enforce-eager" in plan.command
    assert caplog.messages == ["there is no C++ compiler (g++, or what CXX names): models are not compiled"]


def test_what_is_compiled_is_kept(tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    variables = plan_of(make_loader(tmp_path), models["demo"]).variables
    assert Path(variables["VLLM_CACHE_ROOT"]).parent == tmp_path / "cache" / "0.32.0"
    assert variables["TRITON_CACHE_DIR"] == "/mine"


def test_meanwhile_weights_are_read_ahead(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[Path]()
    monkeypatch.setattr(loader_module, "prefetch_weights", lambda folder, _stop: read.append(folder))
    forgotten = tmp_path / "cache" / "0.31.0" / "gone"
    forgotten.mkdir(parents=True)
    os.utime(forgotten, (0, 0))
    plan_of(make_loader(tmp_path), models["demo"]).meanwhile(threading.Event())
    assert read == [Path(models["demo"].source)]
    assert not forgotten.exists()


GPU = Memory(total=24 * GIB, free=20 * GIB, usable=22 * GIB, gpus=1)
RAM = Memory(total=64 * GIB, free=40 * GIB, usable=60 * GIB, gpus=0)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[Memory]:
    """What the machine has: the last of the list."""
    found = [GPU]
    monkeypatch.setattr(loader_module, "read_memory", lambda _profile, _gpus: found[-1])
    return found


async def test_a_demand_and_a_share(tmp_path: Path, models: dict[str, Model], memory: list[Memory]) -> None:
    loader = make_loader(tmp_path, models["demo"])
    demand = await loader.demand(models["demo"])
    assert GIB < demand.minimum < 2 * GIB
    assert demand.useful == int(8.75 * GIB), "half of what there is beside an embedder"
    engine = loader.engine(models["demo"], 6 * GIB)
    assert (engine.size, value_of(engine._plan, "--gpu-memory-utilization")) == (6 * GIB, "0.25")
    assert engine._plan.full_context == 4096
    memory.append(RAM)
    loader = Loader(Settings(home=tmp_path), replace(ENVIRONMENT, profile=Profile.CPU), Catalogue([models["demo"]]))
    demand = await loader.demand(models["demo"])
    plan = plan_of(loader, models["demo"], demand.useful)
    assert plan.variables["VLLM_CPU_KVCACHE_SPACE"] == "1"


@pytest.mark.parametrize(("settings", "fraction"), [({}, "0.833"), ({"memory_limit": 12}, "0.5")])
async def test_an_only_engine_has_all(
    tmp_path: Path, models: dict[str, Model], memory: list[Memory], settings: dict[str, Any], fraction: str
) -> None:
    loader = make_loader(tmp_path, models["demo"], **settings)
    assert "--gpu-memory-utilization" not in plan_of(loader, models["demo"]).command, "nobody has looked what there is"
    loader = make_loader(tmp_path, models["demo"], **settings)
    await loader.demand(models["demo"])
    assert value_of(plan_of(loader, models["demo"]), "--gpu-memory-utilization") == fraction
    memory.append(RAM)
    loader = Loader(Settings(home=tmp_path), replace(ENVIRONMENT, profile=Profile.CPU), Catalogue([models["demo"]]))
    demand = await loader.demand(models["demo"])
    assert plan_of(loader, models["demo"]).size == demand.useful


async def test_the_users_fraction_is_what_each_engine_gets(
    tmp_path: Path, models: dict[str, Model], memory: list[Memory]
) -> None:
    loader = make_loader(tmp_path, models["demo"], gpu_memory_utilization=0.25)
    demand = await loader.demand(models["demo"])
    assert demand == Demand.exactly(6 * GIB)
    plan = plan_of(loader, models["demo"], 6 * GIB)
    assert plan.command.count("--gpu-memory-utilization") == 1
    loader = make_loader(tmp_path, models["demo"], gpu_memory_utilization=0.01)
    with pytest.raises(DoesNotFitError, match=r"demo:latest needs 1\.\d GB of GPU memory, 0\.2 GB free: "):
        await loader.demand(models["demo"])
    assert memory


async def test_what_never_fits_names_what_does(tmp_path: Path, models: dict[str, Model], memory: list[Memory]) -> None:
    assert models["demo"].checkpoint is not None
    model = replace(models["demo"], checkpoint=replace(models["demo"].checkpoint, size=31 * 10**9))
    loader = Loader(Settings(home=tmp_path), ENVIRONMENT, Catalogue([model]), {model.source: "demo:awq"}.get)
    with pytest.raises(DoesNotFitError) as error:
        await loader.demand(model)
    assert str(error.value) == "demo:latest needs 33 GB of GPU memory, 21 GB free: try demo:awq"
    memory.append(replace(GPU, total=141 * GIB, free=130 * GIB, usable=130 * GIB))
    assert (await loader.demand(model)).minimum > 31 * 10**9


async def test_what_is_free(tmp_path: Path, models: dict[str, Model], memory: list[Memory]) -> None:
    loader = make_loader(tmp_path, models["demo"])
    assert await loader.free() == 20 * GIB
    engine = loader.engine(models["demo"], 6 * GIB)
    assert await loader.free() == 14 * GIB, "it is about to take it"
    engine.state = State.READY
    memory.append(replace(GPU, free=14 * GIB))
    assert await loader.free() == 14 * GIB, "it has taken it"
    assert (await loader.demand(models["demo"])).useful == int(8.75 * GIB), "of all, though it is taken"
    engine.state = State.ASLEEP
    memory.append(replace(GPU, free=19 * GIB))
    assert await loader.free() == 19 * GIB
    assert (await loader.demand(models["demo"])).useful == int(8.75 * GIB), "what it keeps asleep counts as to be had"
    engine.state = State.READY
    await engine.stop()
    memory.append(GPU)
    assert await loader.free() == 20 * GIB


async def test_on_a_cpu_engines_take_memory_as_they_fill_it(
    tmp_path: Path, models: dict[str, Model], memory: list[Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.append(RAM)
    loader = Loader(Settings(home=tmp_path), replace(ENVIRONMENT, profile=Profile.CPU), Catalogue([models["demo"]]))
    most = (await loader.demand(models["demo"])).useful
    engine = loader.engine(models["demo"], 12 * GIB)
    for state, taken in ((State.STARTING, 0), (State.READY, 2), (State.READY, 12), (State.READY, 13)):
        engine.state = state
        monkeypatch.setattr(engine, "resident", lambda taken=taken: taken * GIB)
        memory.append(replace(RAM, free=(40 - min(taken, 12)) * GIB))
        assert await loader.free() == 28 * GIB
        assert (await loader.demand(models["demo"])).useful == most


async def test_a_driver_that_hangs(
    tmp_path: Path, models: dict[str, Model], memory: list[Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "_MEASURE_S", 0.01)
    answers = threading.Event()
    monkeypatch.setattr(loader_module, "read_memory", lambda *_: answers.wait(5))
    with pytest.raises(EngineError, match="the GPU's driver does not answer"):
        await make_loader(tmp_path, models["demo"]).free()
    answers.set()


async def test_a_limit_for_all(tmp_path: Path, models: dict[str, Model], memory: list[Memory]) -> None:
    loader = make_loader(tmp_path, models["demo"], memory_limit=8.0)
    assert (await loader.free(), (await loader.demand(models["demo"])).useful) == (8 * GIB, int(2.75 * GIB))
    loader.engine(models["demo"], 5 * GIB)
    assert await loader.free() == 3 * GIB
    loader.engine(models["demo"], 5 * GIB)
    assert await loader.free() == 0
    assert memory


@pytest.mark.parametrize(
    ("arguments", "gpus"),
    [
        ({}, 1),
        ({"tensor_parallel_size": 2}, 2),
        ({"vllm_args": ["-tp", "4", "--pipeline-parallel-size=2"]}, 8),
        ({"vllm_args": ["--tensor_parallel_size", "x"]}, 1),
    ],
)
def test_how_many_gpus_an_engine_uses(tmp_path: Path, arguments: dict[str, Any], gpus: int) -> None:
    assert make_loader(tmp_path, **arguments)._gpus == gpus
