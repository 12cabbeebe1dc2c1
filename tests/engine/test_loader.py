"""From a model to its engine's launch plan: address, command line, weights."""

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllama.engine import loader as loader_module
from vllama.engine.engine import LaunchPlan
from vllama.engine.install import Environment, Profile
from vllama.engine.loader import Loader
from vllama.errors import ConfigError
from vllama.models import hub
from vllama.models.catalogue import Catalogue, Model
from vllama.models.names import parse
from vllama.settings import Settings

ENVIRONMENT = Environment(Path("/engine/bin/python"), "0.32.0", Profile.CUDA, Path("/engine/flags.json"))


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


def test_a_socket_folder_that_was_tidied_away_is_made_anew(tmp_path: Path, models: dict[str, Model]) -> None:
    loader = make_loader(tmp_path)
    shutil.rmtree(loader._folder)
    folder = Path(value_of(plan_of(loader, models["demo"]), "--uds") or "").parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    loader.close()
    assert not folder.exists()


@pytest.mark.parametrize("unfit", ["{tmp}/missing", "{tmp}/" + "long/" * 20])
def test_a_runtime_folder_that_does_not_fit_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfit: str
) -> None:
    folder = Path(unfit.format(tmp=tmp_path))
    if "long" in unfit:
        folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    loader = make_loader(tmp_path)
    assert len(os.fsencode(loader._folder / "123456.sock")) <= 107
    assert folder not in loader._folder.parents
    loader.close()


def test_no_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> str:
        raise PermissionError

    monkeypatch.setattr(loader_module.tempfile, "mkdtemp", refuse)
    with pytest.raises(ConfigError, match=r"no folder for the engine's socket: .* or use --vllm-port"):
        make_loader(tmp_path)


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
    known = await loader.fetch(model)
    engine = loader.engine(known, None)
    assert known.checkpoint == models["demo"].checkpoint
    assert loader._catalogue.find(model.name) == known
    assert value_of(engine._plan, "--model") == models["demo"].source
    assert engine._plan.log.name == "some-where.log"
    progress = [record.message.partition("downloaded ")[2] for record in caplog.records if "%" in record.message]
    assert progress == ["0 % of 100.0 GB", "10 % of 100.0 GB", "100 % of 100.0 GB"]
    assert await loader.fetch(known) is known
    assert asked == ["Some/Where"]


async def test_a_download_that_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def download(*_: Any, **__: Any) -> Path:
        return tmp_path

    monkeypatch.setattr(hub, "download", download)
    model = Model(parse("some/where"), source="Some/Where", engine_name="some/where")
    loader = make_loader(tmp_path, model)
    with pytest.raises(ConfigError, match="is empty"):
        await loader.fetch(model)
    assert loader._catalogue.find(model.name) == model
