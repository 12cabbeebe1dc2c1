"""From where weights lie to models: what `--model`, `--lora` and manifests name, and what the hub's cache holds."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from vllama import demo
from vllama.errors import ConfigError, VllamaError
from vllama.models import hub
from vllama.models.adapters import Adapter, inspect_adapter, is_adapter
from vllama.models.catalogue import Find
from vllama.models.inspect import Checkpoint, inspect
from vllama.models.model import Model
from vllama.models.names import InvalidName, ModelName, name_from_source, parse, parse_model_argument
from vllama.models.store import Origin, Store, Stored

BUILT_IN = {"demo": demo.CHAT, "demo-embed": demo.EMBED, "demo-parrot": demo.ADAPTER}
"""Models that come with the package. The parrot is a LoRA adapter on the first of them."""

_Stamp = tuple[tuple[str, int, int], ...]


class Inspector:
    """Reads folders, and reads them again only where something in them changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Stamp, Checkpoint | Adapter | VllamaError]] = {}

    def checkpoint(self, path: Path) -> Checkpoint:
        """Raises ConfigError where the folder is none."""
        found = self._look(path, inspect)
        assert isinstance(found, Checkpoint)
        return found

    def adapter(self, path: Path) -> Adapter:
        """Raises ConfigError where the folder is none."""
        found = self._look(path, inspect_adapter)
        assert isinstance(found, Adapter)
        return found

    def _look(self, path: Path, read: Callable[[Path], Checkpoint | Adapter]) -> Checkpoint | Adapter:
        stamp = _stamp(path)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            try:
                known = (stamp, read(path))
            except VllamaError as error:
                known = (stamp, error)
            self._known[path] = known
        if isinstance(known[1], VllamaError):
            raise known[1]
        return known[1]


def _stamp(path: Path) -> _Stamp:
    try:
        with os.scandir(path) as entries:
            found = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return ()
    return tuple(sorted((name, status.st_mtime_ns, status.st_size) for name, status in found))


def read_models(arguments: Sequence[str], adapters: Sequence[str], inspector: Inspector) -> list[Model]:
    """What `--model` and `--lora` arguments name; the built-in models where there is no `--model`.

    Raises ConfigError for a source that cannot be served, with the reason.
    """
    given = [read_lora(argument) for argument in adapters]
    models = []
    for name, source in map(_read_argument, arguments or BUILT_IN):
        if (path := _folder(source)) is not None and is_adapter(path) and not (path / "config.json").exists():
            given.append((name, path, ""))
        else:
            models.append(_from_source(name, source, path, inspector))
    known = {model.name.key: model for model in models}

    def find(name: ModelName) -> Model | None:
        return known.get(name.key)

    for name, path, base in given:
        model = adapter_model(name, inspector.adapter(path), base, find, inspector)
        if model.fault is not None:
            raise model.fault
        models.append(model)
    return models


def stored_models(store: Store, inspector: Inspector) -> Callable[[Find], Iterable[Model]]:
    """A shelf of the models that manifests describe: those with weights of their own first, as adapters need them."""

    def shelf(find: Find) -> Iterator[Model]:
        known: dict[str, Model] = {}

        def find_base(name: ModelName) -> Model | None:
            return find(name) or known.get(name.key)

        for stored in sorted(store, key=lambda stored: stored.manifest.weights is None):
            known[stored.name.key] = model = _from_manifest(stored, store, find_base, inspector)
            yield model

    return shelf


def cached_models(inspector: Inspector, taken: Callable[[], Iterable[str]]) -> Callable[[Find], Iterable[Model]]:
    """A shelf of what the Hugging Face cache holds and vLLM can serve. taken: repositories that have a name already."""

    def shelf(find: Find) -> Iterator[Model]:
        named = {repository.lower() for repository in taken()}
        for repository, path in hub.cached_repositories():
            if repository.lower() in named:
                continue
            try:
                name = parse(name_from_source(repository))
                if is_adapter(path):
                    model = adapter_model(name, inspector.adapter(path), "", find, inspector)
                else:
                    model = _from_source(name, repository, path, inspector)
            except (VllamaError, InvalidName):
                continue  # something else than a language model: nobody asked us to serve it
            if model.capabilities and model.fault is None:
                yield model

    return shelf


def adapter_model(name: ModelName, adapter: Adapter, base: str, find: Find, inspector: Inspector) -> Model:
    """A LoRA adapter on its base. base: how the base was named, "" to take the adapter's own word.

    What stands in the way of serving it becomes the model's fault.
    """
    model = Model(name, source="", engine_name=f"adapter-{adapter.digest[:16]}", adapter=adapter)
    try:
        weights = _find_base(name, adapter, base, find, inspector)
    except VllamaError as error:
        return replace(model, fault=error)
    fault = None
    if adapter.trouble:
        fault = ConfigError(
            f"{name.short} cannot be served as an adapter: {adapter.trouble}", f"run `vllama merge {name.short}`"
        )
    return replace(model, source=weights.source, checkpoint=weights.checkpoint, parent=weights.name.short, fault=fault)


def origin_of(model: Model) -> Origin:
    """How a manifest names the weights of a model."""
    if model.stored is not None and model.stored.manifest.weights is not None:
        return model.stored.manifest.weights
    built_in = next((name for name, path in BUILT_IN.items() if str(path) == model.source), None)
    if built_in is not None:
        return Origin("demo", built_in)
    if hub.is_hub_id(model.source):
        return Origin("hub", model.source)
    return Origin("folder", model.source)


def _from_manifest(stored: Stored, store: Store, find: Find, inspector: Inspector) -> Model:
    manifest = stored.manifest
    model = Model(stored.name, source="", engine_name=stored.name.short)
    try:
        base = manifest.base
        if manifest.weights is not None:
            base, path = _locate(manifest.weights, store)
            model = _from_source(stored.name, base, path, inspector)
        if manifest.adapter is not None:
            _, path = _locate(manifest.adapter, store)
            if path is None:
                raise ConfigError(
                    f"the adapter {manifest.adapter.name} is not on this machine any more",
                    f"pull {stored.name.short} again",
                )
            model = adapter_model(stored.name, inspector.adapter(path), base, find, inspector)
    except VllamaError as error:
        model = replace(model, fault=error)
    return replace(model, modelfile=manifest.modelfile, stored=stored, parent=manifest.parent or model.parent)


def _locate(origin: Origin, store: Store) -> tuple[str, Path | None]:
    """The source that an origin names and its folder, None where that is not on this machine."""
    if origin.kind == "hub":
        return origin.name, hub.cached_snapshot(origin.name, origin.revision or None)
    if origin.kind == "demo":
        path = BUILT_IN.get(origin.name)
        if path is None:
            raise ConfigError(f"there is no built-in model {origin.name}", f"choose from {', '.join(BUILT_IN)}")
    else:
        path = store.folder(origin.files) if origin.kind == "files" else Path(origin.name)
    return str(path), path


def _from_source(name: ModelName, source: str, path: Path | None, inspector: Inspector) -> Model:
    return Model(
        name,
        source=str(path) if path and not hub.is_hub_id(source) else source,
        engine_name=name.short,
        checkpoint=inspector.checkpoint(path) if path else None,
    )


def _find_base(name: ModelName, adapter: Adapter, base: str, find: Find, inspector: Inspector) -> Model:
    wanted = base or adapter.base
    with contextlib.suppress(InvalidName):
        if wanted and (model := find(parse(wanted))) is not None and model.adapter is None:
            return model
    if wanted in BUILT_IN:
        return _from_source(parse(wanted), str(BUILT_IN[wanted]), BUILT_IN[wanted], inspector)
    if not wanted or (not hub.is_hub_id(wanted) and not Path(wanted).is_dir()):
        raise ConfigError(
            f"the base of the adapter {name.short} is not known"
            + (f": it was trained on {wanted}, which is not here" if wanted else ""),
            f"name it: --lora {name.short}={adapter.path}@BASE, or run `vllama merge {name.short}`",
        )
    path = _folder(wanted)
    return _from_source(parse(name_from_source(wanted)), wanted, path, inspector)


def _read_argument(argument: str) -> tuple[ModelName, str]:
    given, source = parse_model_argument(argument)
    built_in = source in BUILT_IN and not Path(source).exists()
    if built_in:
        given, source = given or source, str(BUILT_IN[source])
    return _named(given or name_from_source(source)), source


def read_lora(argument: str) -> tuple[ModelName, Path, str]:
    """`NAME=PATH[@BASE]`."""
    name, separator, rest = argument.partition("=")
    path, at, base = rest.rpartition("@") if "@" in rest and not Path(rest).expanduser().exists() else (rest, "", "")
    if not separator or not path or (at and not base):
        raise ConfigError(f"{argument!r} names no adapter", "write --lora NAME=FOLDER, or NAME=FOLDER@BASE")
    return _named(name), Path(os.path.expanduser(path)).absolute(), base  # noqa: PTH111


def _named(text: str) -> ModelName:
    try:
        name = parse(text)
    except InvalidName:
        raise ConfigError(
            f"{text!r} is not a valid model name", "write NAME=SOURCE with letters, digits, '.', '_' and '-' in NAME"
        ) from None
    if name.is_remote:
        raise ConfigError(
            f"{name.short} reads as a model of Ollama's cloud",
            "give another tag than `cloud` and those ending in `-cloud`",
        )
    return name


def _folder(source: str) -> Path | None:
    """The folder that a source names; None for a hub repository that is not on this machine yet."""
    path = os.path.expanduser(source)  # noqa: PTH111 - Path's raises for an unknown user
    if path and os.path.exists(path):  # noqa: PTH110 - and for a name that is too long
        return Path(path).absolute()
    if hub.is_hub_id(source):
        return hub.cached_snapshot(source)
    raise ConfigError(
        f"there is no model {source!r}",
        f"give a folder, a Hugging Face id like Qwen/Qwen3-4B, or one of {', '.join(BUILT_IN)}",
    )
