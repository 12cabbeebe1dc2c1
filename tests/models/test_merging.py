from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import safetensors
from tests.models.test_adapters import LORA
from vllama import demo
from vllama.errors import ConfigError
from vllama.models.catalogue import Catalogue
from vllama.models.merging import base_folder, find_adapter, merged_folder, register, target_name
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.models.sources import Inspector, adapter_model, read_models, stored_models
from vllama.models.store import Manifest, Origin, Store

ADAPTER = Path(demo.__file__).parent / "adapter"


@pytest.fixture
def dora(build: Callable[..., Path]) -> Path:
    """An adapter of the demo model that vLLM does not load."""
    files: dict[str, Any] = {
        "config.json": None,
        "model.safetensors": None,
        "adapter_config.json": LORA | {"base_model_name_or_path": "demo", "use_dora": True},
        "adapter_model.safetensors": safetensors({"a.lora_A.weight": ("F32", [8, 4])}),
    }
    return build(files=files, name="dora")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def catalogue(store: Store) -> Catalogue:
    inspector = Inspector()
    opened = Catalogue(read_models(["demo"], (), inspector), [stored_models(store, inspector)])
    opened.refresh()
    return opened


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        call()
    return str(raised.value)


def test_an_adapter_by_its_name(dora: Path, store: Store, catalogue: Catalogue) -> None:
    store.write(parse("mine"), Manifest(adapter=Origin("folder", str(dora)), base="demo", system="Be brief."))
    catalogue.refresh()
    model = find_adapter("MINE", catalogue)
    assert model.fault is not None
    assert model.adapter is not None
    assert model.adapter.path == dora
    assert base_folder(model) == demo.CHAT


def test_an_adapter_by_its_folder(dora: Path, catalogue: Catalogue) -> None:
    for argument in (f"x={dora}", f"x={dora}@demo"):
        model = find_adapter(argument, catalogue)
        assert model.adapter is not None
        assert (model.name.key, model.adapter.path, model.parent) == (parse("x").key, dora, "demo:latest")
        assert base_folder(model) == demo.CHAT


def test_what_cannot_be_found(dora: Path, catalogue: Catalogue) -> None:
    assert refused(lambda: find_adapter("x", catalogue)) == ("model 'x' not found: write `vllama merge x=FOLDER@BASE`")
    assert refused(lambda: find_adapter("demo", catalogue)) == (
        "demo:latest is no adapter: it is a whole model already"
    )
    assert "is not a valid model name" in refused(lambda: find_adapter("a b", catalogue))
    assert "does not exist" in refused(lambda: find_adapter("x=/none@demo", catalogue))
    unknown = find_adapter(f"x={dora}@/none", catalogue)
    assert "/none" in refused(lambda: base_folder(unknown))


def test_a_base_that_is_not_downloaded(dora: Path) -> None:
    inspector = Inspector()
    model = adapter_model(
        parse("x"), inspector.adapter(dora), "org/base", [Model(parse("org/base"), "org/base", "b")], inspector
    )
    assert refused(lambda: base_folder(model)) == "the base org/base is not on this machine: run `vllama pull org/base`"


@pytest.mark.parametrize(
    ("name", "folder"),
    [("parrot", "parrot"), ("me/x:7b", "me-x-7b"), ("peft:demo:sql:100", "peft-demo-sql-100")],
)
def test_where_it_is_put(store: Store, name: str, folder: str) -> None:
    assert merged_folder(store, parse(name)) == store.root / "merged" / folder


def test_the_name_it_gets(dora: Path, catalogue: Catalogue) -> None:
    adapter = find_adapter(f"x={dora}", catalogue)
    assert target_name(None, adapter, catalogue) == parse("x")
    assert target_name("me/y:2", adapter, catalogue) == parse("me/y:2")
    assert "is not a valid model name" in refused(lambda: target_name("a//b", adapter, catalogue))
    assert refused(lambda: target_name("Demo", adapter, catalogue)) == (
        "Demo:latest is one of the server's own models, which come first: choose another name with --output, or take "
        "it out of the settings"
    )


def test_its_folder_goes_with_its_last_name(dora: Path, store: Store, catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.root.parent)
    folder = merged_folder(Store(tmp_path / "link" / "models"), parse("x"))
    folder.mkdir(parents=True)
    register(store, parse("x"), folder, find_adapter(f"x={dora}", catalogue))
    register(store, parse("copy"), folder, find_adapter(f"x={dora}", catalogue))
    store.remove(parse("x"))
    assert folder.is_dir()
    store.write(parse("copy"), Manifest(weights=Origin("folder", str(dora))))
    assert not folder.exists()
    store.remove(parse("copy"))
    assert dora.is_dir(), "it is the user's"


@pytest.mark.parametrize("name", ["mine", "other", "peft:demo:sql"])
def test_the_merged_model_takes_a_name(dora: Path, store: Store, catalogue: Catalogue, name: str) -> None:
    before = Manifest(adapter=Origin("folder", str(dora)), base="demo", system="Be brief.")
    store.write(parse("mine"), before)
    catalogue.refresh()
    register(store, parse(name), demo.CHAT, find_adapter("mine", catalogue))
    catalogue.refresh()
    merged = catalogue.find(parse(name))
    assert merged is not None
    assert (merged.fault, merged.adapter, merged.source) == (None, None, str(demo.CHAT))
    assert merged.modelfile.system == "Be brief."


def test_the_merged_model_of_a_folder_knows_its_parent(dora: Path, store: Store, catalogue: Catalogue) -> None:
    register(store, parse("x"), demo.CHAT, find_adapter(f"x={dora}", catalogue))
    stored = store.read(parse("x"))
    assert stored is not None
    assert stored.manifest == Manifest(weights=Origin("folder", str(demo.CHAT)), parent="demo:latest")
