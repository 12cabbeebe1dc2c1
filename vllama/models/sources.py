"""From where weights lie to models: what `--model`, `--lora` and manifests name, and what the hub's cache holds."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vllama import demo
from vllama.errors import ConfigError, VllamaError
from vllama.models import hub
from vllama.models._folders import Kind, Stamp, stamp_of
from vllama.models.adapters import Adapter, UnservableAdapterError, inspect_adapter, is_adapter, refusal
from vllama.models.bases import Base, base_of
from vllama.models.catalogue import Shelf
from vllama.models.checkpoints import Checkpoints
from vllama.models.fit import check_fit
from vllama.models.inspect import Checkpoint, inspect
from vllama.models.model import Model
from vllama.models.names import InvalidName, ModelName, is_valid, name_from_source, parse, parse_model_argument
from vllama.models.store import Origin, Store, Stored

BUILT_IN = {"demo": demo.CHAT, "demo-embed": demo.EMBED, "demo-parrot": demo.ADAPTER}
"""Models that come with the package. The parrot is a LoRA adapter on the first of them."""


class Inspector:
    """Reads folders, and reads them again only where something in them changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Stamp, Checkpoint | Adapter | VllamaError]] = {}
        self._fits: dict[tuple[str, str, str], VllamaError | None] = {}

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

    def misfit(self, adapter: Adapter, name: str, base: Checkpoint, argument: str) -> VllamaError | None:
        """Why the adapter of that name does not fit this base, None where nothing speaks against it."""
        key = (adapter.digest, base.digest, name)
        if key not in self._fits:
            try:
                check_fit(adapter, name, base, argument)
            except VllamaError as error:
                self._fits[key] = error
            else:
                self._fits[key] = None
        return self._fits[key]

    def _look(self, path: Path, read: Callable[[Path], Checkpoint | Adapter]) -> Checkpoint | Adapter:
        stamp = stamp_of(path)
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


def read_models(
    arguments: Sequence[str], adapters: Sequence[str], inspector: Inspector, found: Sequence[Model] = ()
) -> list[Model]:
    """What `--model` and `--lora` arguments name; the built-in models where there is no `--model`.

    found: models that are there besides, of which adapters may have their bases.
    Raises ConfigError for a source that is no model, with the reason. An adapter that cannot be served has its fault.
    """
    given, models = [], []
    for name, source in map(_read_argument, arguments or BUILT_IN):
        if (path := _folder(source)) is not None and is_adapter(path):
            given.append((name, path, ""))
        else:
            models.append(_from_source(name, source, path, inspector))
    for name, path, base in [*given, *map(read_lora, adapters)]:
        argument = f"{name.short}={path}" + (f"@{base}" if base else "")
        models.append(adapter_model(name, inspector.adapter(path), base, [*models, *found], inspector, argument))
    return models


def stored_models(store: Store, inspector: Inspector) -> Shelf:
    """A shelf of the models that manifests describe: those with weights of their own first, as adapters need them."""

    def shelf(known: Mapping[str, Model]) -> Iterator[Model]:
        for stored in sorted(store, key=lambda stored: stored.manifest.weights is None):
            yield _from_manifest(stored, store, known, inspector)

    return shelf


def trained_models(folders: Sequence[Path], inspector: Inspector) -> Shelf:
    """A shelf of what training has left in these folders."""
    checkpoints = Checkpoints(folders)

    def shelf(known: Mapping[str, Model]) -> Iterator[Model]:
        for trained in checkpoints.scan(_bases(known.values())):
            with contextlib.suppress(VllamaError):  # it changed meanwhile: the next look will tell
                if trained.kind is Kind.ADAPTER:
                    adapter = inspector.adapter(trained.path)
                    yield adapter_model(trained.name, adapter, "", known.values(), inspector)
                else:
                    yield _from_source(trained.name, str(trained.path), trained.path, inspector)

    return shelf


def cached_models(inspector: Inspector, taken: Callable[[], Iterable[str]]) -> Shelf:
    """A shelf of what the Hugging Face cache holds and vLLM can serve. taken: repositories that have a name already."""

    def shelf(known: Mapping[str, Model]) -> Iterator[Model]:
        named = {repository.lower() for repository in taken()}
        found = [one for one in hub.cached_repositories() if one[0].lower() not in named]
        # Adapters last: their bases may be among the others.
        for adapts, repository, path in sorted((is_adapter(path), repository, path) for repository, path in found):
            try:
                name = parse(name_from_source(repository))
                if adapts:
                    model = adapter_model(name, inspector.adapter(path), "", known.values(), inspector)
                else:
                    model = _from_source(name, repository, path, inspector)
            except (VllamaError, InvalidName):
                continue  # something else than a language model: nobody asked us to serve it
            if model.capabilities and (model.fault is None or isinstance(model.fault, UnservableAdapterError)):
                yield model

    return shelf


def adapter_model(
    name: ModelName, adapter: Adapter, base: str, known: Iterable[Model], inspector: Inspector, argument: str = ""
) -> Model:
    """A LoRA adapter on its base. base: how the base was named, "" to take the adapter's own word.

    What stands in the way of serving it becomes the model's fault. argument: what `vllama merge` knows it by, where
    that is not its name.
    """
    models = list(known)
    model = Model(name, source="", engine_name=f"adapter-{adapter.digest[:16]}", adapter=adapter)
    try:
        _refuse_stacking(name, base or adapter.base, models)
        found = base_of(adapter, name.short, _bases(models), base)
        weights = _weights_of(found, models, inspector)
    except VllamaError as error:
        return replace(model, fault=error)
    fault: VllamaError | None = refusal(adapter, name.short, argument)
    if fault is None and weights.checkpoint is not None:
        fault = inspector.misfit(adapter, name.short, weights.checkpoint, argument)
    return replace(model, source=weights.source, checkpoint=weights.checkpoint, parent=weights.name.short, fault=fault)


def _refuse_stacking(name: ModelName, base: str, known: Iterable[Model]) -> None:
    key = parse(base).key if is_valid(base) else ""
    below = next((model for model in known if model.name.key == key and model.adapter is not None), None)
    if below is not None:
        raise ConfigError(
            f"the adapter {name.short} wants the base {base}, which is an adapter itself",
            f"make a model of that with `vllama merge {base} --output OTHER`, and name OTHER as the base",
        )


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


def _from_manifest(stored: Stored, store: Store, known: Mapping[str, Model], inspector: Inspector) -> Model:
    manifest = stored.manifest
    model = Model(stored.name, source="", engine_name=stored.name.short)
    try:
        if manifest.weights is not None:
            source, path = _locate(manifest.weights, store)
            model = _from_source(stored.name, source, path, inspector)
        if manifest.adapter is not None:
            _, path = _locate(manifest.adapter, store)
            if path is None:
                raise ConfigError(
                    f"the adapter {manifest.adapter.name} is not on this machine any more",
                    f"pull {stored.name.short} again",
                )
            models = [*known.values(), *([model] if model.source else [])]
            wanted = manifest.base or model.source
            model = adapter_model(stored.name, inspector.adapter(path), wanted, models, inspector)
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


def _bases(models: Iterable[Model]) -> list[tuple[ModelName, str]]:
    """What may be an adapter's base: whole models, and those of the package."""
    whole = [(model.name, model.source) for model in models if model.adapter is None and model.source]
    return whole + [(parse(name), str(path)) for name, path in BUILT_IN.items() if not is_adapter(path)]


def _weights_of(base: Base, models: Iterable[Model], inspector: Inspector) -> Model:
    found = (model for model in models if model.name == base.name and model.source == base.source)
    name = base.name or parse(name_from_source(base.source))
    return next(found, None) or _from_source(name, base.source, _folder(base.source), inspector)


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
