"""What `--model` and `--lora` arguments, manifests and the hub's cache name."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.each import each
from tests.models.conftest import Build
from vllama import demo
from vllama.errors import ConfigError
from vllama.models import hub
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.models.sources import Inspector, cached_models, read_models, stored_models
from vllama.models.store import Manifest, Origin, Store

HELP = "give a folder, a Hugging Face id like Qwen/Qwen3-4B, or one of demo, demo-embed, demo-parrot"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of the checkout, and no cache of the user's."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


def read_catalogue(arguments: Sequence[str]) -> Catalogue:
    return Catalogue(read_models(arguments, (), Inspector()))


def names(*arguments: str) -> list[str]:
    return [model.name.short for model in read_catalogue(arguments)]


def only(argument: str) -> Model:
    (model,) = read_catalogue([argument])
    return model


def test_the_built_in_models_where_none_is_named() -> None:
    assert names() == ["demo:latest", "demo-embed:latest", "demo-parrot:latest"]


def test_an_adapter_beside_its_bases_config(tmp_path: Path) -> None:
    folder = tmp_path / "parrot"
    shutil.copytree(demo.ADAPTER, folder)
    shutil.copy(demo.CHAT / "config.json", folder)
    model = only(str(folder))
    assert (model.name.short, model.parent, model.fault) == ("parrot:latest", "demo:latest", None)


def test_an_adapter_on_an_adapter() -> None:
    (model,) = read_models(["demo-parrot"], (), Inspector())
    (_, stacked) = read_models(["demo-parrot"], [f"x={demo.ADAPTER}@demo-parrot"], Inspector())
    assert model.fault is None
    assert str(stacked.fault) == (
        "the adapter x:latest wants the base demo-parrot, which is an adapter itself: make a model of that with "
        "`vllama merge demo-parrot --output OTHER`, and name OTHER as the base"
    )


def test_how_to_merge_an_adapter_of_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "dora"
    shutil.copytree(demo.ADAPTER, folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    (model,) = read_models([f"x={folder}"], (), Inspector())
    assert f"run `vllama merge x:latest={folder}`, which makes a model" in str(model.fault)
    (_, model) = read_models(["demo"], [f"x={folder}@demo"], Inspector())
    assert f"run `vllama merge x:latest={folder}@demo`, which makes a model" in str(model.fault)


@pytest.mark.parametrize(("argument", "name"), [("demo", "demo:latest"), ("Mine:1b=demo", "Mine:1b")])
def test_a_built_in_model(argument: str, name: str) -> None:
    model = only(argument)
    assert (model.name.short, model.engine_name, model.source) == (name, name, str(demo.CHAT))
    assert model.checkpoint is not None


def test_a_folder_of_that_name_comes_first(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = build(name="work/demo")
    assert only("demo").source == str(folder)


@pytest.mark.parametrize("argument", ["{folder}", "mine={folder}", "./{name}", "~/{name}"])
def test_a_folder(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    folder = build(name="My Model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    model = only(argument.format(folder=folder, name=folder.name))
    assert model.name.short == ("mine:latest" if argument.startswith("mine=") else "My-Model:latest")
    assert Path(model.source).is_absolute()
    assert Path(model.source) == folder
    assert model.checkpoint is not None
    assert (model.digest, model.capabilities) == (model.checkpoint.digest, model.checkpoint.capabilities)
    assert not model.lacks("completion")
    assert model.lacks("embedding")


def test_a_repository_that_is_not_here() -> None:
    model = only("Some/Model-4B")
    assert (model.name.short, model.source, model.checkpoint) == ("Some/Model-4B:latest", "Some/Model-4B", None)
    assert model.capabilities == ("completion", "tools")
    assert model.templated
    assert not model.lacks("vision"), "nothing is known of it"
    assert len(model.digest) == 64


def test_a_repository_in_the_cache(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build()
    monkeypatch.setattr(hub, "cached_snapshot", {"Some/Model": folder}.get)
    model = only("small=Some/Model")
    assert (model.name.short, model.source) == ("small:latest", "Some/Model")
    assert model.checkpoint is not None
    assert model.checkpoint.path == folder


def test_a_link_that_is_mended_is_noticed(build: Build, tmp_path: Path) -> None:
    folder = build(files={"model.safetensors": None})
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    inspector = Inspector()
    with pytest.raises(ConfigError, match="is a link to"):
        inspector.checkpoint(folder)
    shutil.copy(demo.CHAT / "model.safetensors", tmp_path / "blob")
    assert inspector.checkpoint(folder).path == folder


def cache(repository: str, files: Path, base: str = "") -> None:
    """Put a copy of a folder into the hub's cache."""
    storage = hub.cache_folder() / f"models--{repository.replace('/', '--')}"
    snapshot = storage / "snapshots" / ("0" * 40)
    shutil.copytree(files, snapshot)
    if base:
        settings = json.loads((snapshot / "adapter_config.json").read_text())
        (snapshot / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text("0" * 40)


def test_what_the_cache_holds(build: Build, tmp_path: Path) -> None:
    """Whatever the order of their names, an adapter finds its base; what is no language model is left out."""
    cache("org/z-base", demo.CHAT)
    cache("org/a-lora", demo.ADAPTER, "org/z-base")
    cache("org/no-base", demo.ADAPTER, "org/gone")
    cache("org/image", build(files={"config.json": None, "model.safetensors": None, "model_index.json": {}}))
    catalogue = Catalogue([], [cached_models(Inspector(), tuple)])
    catalogue.refresh()
    assert {model.name.short: model.parent for model in catalogue} == {
        "org/z-base:latest": "",
        "org/a-lora:latest": "org/z-base:latest",
    }


def test_a_pulled_adapter_finds_its_base_in_the_cache(tmp_path: Path) -> None:
    cache("org/base", demo.CHAT)
    cache("org/lora", demo.ADAPTER, "org/base")
    store, inspector = Store(tmp_path / "models"), Inspector()
    store.write(parse("mine"), Manifest(adapter=Origin("hub", "org/lora", "0" * 40)))
    catalogue = Catalogue([], [stored_models(store, inspector), cached_models(inspector, tuple)])

    def mine() -> Model:
        catalogue.refresh()
        model = catalogue.find(parse("mine"))
        assert model is not None
        return model

    model = mine()
    base = catalogue.find(parse("org/base"))
    assert base is not None
    assert (model.fault, model.parent, model.weights) == (None, "org/base:latest", base.weights)
    shutil.rmtree(hub.cache_folder() / "models--org--base")
    assert str(mine().fault).startswith(
        "the adapter mine:latest wants the base org/base, which is not here: run `vllama pull org/base`"
    )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["demo", "demo"], "demo:latest"), (["a=demo", "A:latest=demo-embed"], "A:latest")],
)
def test_two_models_of_one_name(arguments: list[str], name: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_catalogue(arguments)
    assert str(error.value) == f"two models are named {name}: give one another name: --model NAME=SOURCE"


@each(
    ("argument", "text"),
    [
        ("nonsense", f"there is no model 'nonsense': {HELP}"),
        ("", f"there is no model '': {HELP}"),
        ("a/b/c", f"there is no model 'a/b/c': {HELP}"),
        ("/no/where", f"there is no model '/no/where': {HELP}"),
        ("~nobody-here/x", f"there is no model '~nobody-here/x': {HELP}"),
        ("x" * 300, f"there is no model '{'x' * 300}': {HELP}"),
        ("x\0y", f"there is no model 'x\\x00y': {HELP}"),
        (
            "x:7b-cloud=demo",
            "x:7b-cloud reads as a model of Ollama's cloud: give another tag than `cloud` and those ending in `-cloud`",
        ),
        ("x=nonsense", f"there is no model 'nonsense': {HELP}"),
        ("x=", "'x=' names a model without a source: write NAME=FOLDER or NAME=ORGANISATION/MODEL"),
        (
            "a b=demo",
            "'a b' is not a valid model name: write NAME=SOURCE with letters, digits, '.', '_' and '-' in NAME",
        ),
        (".", "{cwd} is empty: put the model's config.json and *.safetensors files there"),
        ("/dev/null", "/dev/null is a file: name the folder that holds config.json and *.safetensors"),
    ],
)
def test_what_cannot_be_served(argument: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_catalogue([argument])
    assert str(error.value) == text.replace("{cwd}", str(Path.cwd()))
