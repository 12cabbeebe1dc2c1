"""Which adapter is merged into which folder's weights, and the model that comes of it."""

import re
from pathlib import Path

import msgspec

from vllama.errors import ConfigError
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import InvalidName, ModelName, parse
from vllama.models.sources import Inspector, adapter_model, read_lora
from vllama.models.store import Manifest, Origin, Store


def find_adapter(argument: str, catalogue: Catalogue) -> Model:
    """The adapter that is meant, whether it can be served or not.

    argument: its name, or `NAME=FOLDER[@BASE]`. Raises ConfigError.
    """
    name = read_name(argument.partition("=")[0])
    if "=" in argument:
        _, path, base = read_lora(argument)
        inspector = Inspector()
        return adapter_model(name, inspector.adapter(path), base, catalogue, inspector)
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


def target_name(output: str | None, adapter: Model, catalogue: Catalogue) -> ModelName:
    """The name that the merged model gets. Raises ConfigError where it would never be found under it."""
    name = read_name(output) if output else adapter.name
    taken = catalogue.find(name)
    if taken is not None and catalogue.is_configured(taken):
        raise ConfigError(
            f"{name.short} is one of the server's own models, which come first",
            "choose another name with --output, or take it out of the settings",
        )
    return name


def base_folder(adapter: Model) -> Path:
    """Where the weights of its base lie. Raises ConfigError where they are not known, or not here."""
    if adapter.checkpoint is not None:
        return adapter.checkpoint.path
    if not adapter.source and adapter.fault is not None:
        raise adapter.fault
    raise ConfigError(f"the base {adapter.source} is not on this machine", f"run `vllama pull {adapter.source}`")


def merged_folder(store: Store, name: ModelName) -> Path:
    return store.merged / re.sub(r"[^\w.-]+", "-", name.short.removesuffix(":latest"))


def register(store: Store, name: ModelName, folder: Path, adapter: Model) -> None:
    """Make a merged folder the model of this name, with all that was said with the adapter but its weights."""
    before = adapter.stored.manifest if adapter.stored else Manifest(parent=adapter.parent)
    weights = Origin("folder", str(folder))
    store.write(name, msgspec.structs.replace(before, weights=weights, adapter=None, base=""))
