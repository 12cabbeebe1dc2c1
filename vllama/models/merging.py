"""Which adapter is merged into which folder's weights, and the model that comes of it."""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vllama.errors import ConfigError
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import InvalidName, ModelName, parse
from vllama.models.sources import Inspector, adapter_model, read_lora
from vllama.models.store import Manifest, Origin, Store


def find_adapter(argument: str, catalogue: Catalogue, configured: Sequence[str]) -> Model:
    """The adapter that is meant, whether it can be served or not.

    argument: its name, or `NAME=FOLDER[@BASE]`. configured: more of the latter, from the settings. Raises ConfigError.
    """
    name = read_name(argument.partition("=")[0])
    entries = [argument] if "=" in argument else [entry for entry in configured if read_lora(entry)[0].key == name.key]
    if entries:
        _, path, base = read_lora(entries[0])
        inspector = Inspector()
        return adapter_model(name, inspector.adapter(path), base, catalogue.find, inspector)
    model = catalogue.find(name)
    if model is None:
        raise ConfigError(f"model '{argument}' not found", f"write `vllama merge {argument}=FOLDER@BASE`")
    if model.adapter is None:
        raise model.fault or ConfigError(f"{name.short} is no adapter", "it is a whole model already")
    return model


def read_name(text: str) -> ModelName:
    try:
        return parse(text)
    except InvalidName:
        raise ConfigError(f"{text!r} is not a valid model name", "use letters, digits, '.', '_' and '-'") from None


def base_folder(adapter: Model) -> Path:
    """Where the weights of its base lie. Raises ConfigError where they are not known, or not here."""
    if adapter.checkpoint is not None:
        return adapter.checkpoint.path
    if not adapter.source and adapter.fault is not None:
        raise adapter.fault
    raise ConfigError(f"the base {adapter.source} is not on this machine", f"run `vllama pull {adapter.source}`")


def merged_folder(store: Store, name: ModelName) -> Path:
    return store.root / "merged" / re.sub(r"[^\w.-]+", "-", name.short.removesuffix(":latest"))


def register(store: Store, name: ModelName, folder: Path, adapter: Model) -> None:
    """Make a merged folder the model of this name, with all that was said with the adapter but its weights."""
    before = adapter.stored.manifest if adapter.stored else Manifest(parent=adapter.parent)
    weights = Origin("folder", str(folder))
    store.write(name, msgspec.structs.replace(before, weights=weights, adapter=None, base=""))
