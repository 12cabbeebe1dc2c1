"""Making a model: of another one or of uploaded files, with what a Modelfile adds."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from vllama.errors import ApiError, ConfigError
from vllama.models.adapters import UnservableAdapterError
from vllama.models.catalogue import Catalogue
from vllama.models.create_request import NO_GGUF, check_request, digests, read_parameters
from vllama.models.model import Model
from vllama.models.modelfile_parser import GO_TEMPLATE, read_version
from vllama.models.modelfile_text import licences, template_of
from vllama.models.names import InvalidName, ModelName, parse
from vllama.models.origins import manifest_of, weights_of
from vllama.models.sources import Inspector, adapter_model
from vllama.models.store import Manifest, Origin, Store
from vllama.translate.template import NO_TEMPLATE, is_go_template
from vllama.wire.create import CreateRequest
from vllama.wire.manage import Progress

Events = AsyncGenerator[Progress, None]
Pull = Callable[[ModelName, Store], Events]
"""Fetches what is not here, and writes its manifest."""

_GGUF = b"GGUF"
_NO_EFFECT = "renderer and parser are kept, but have no effect: vLLM brings its own"


class Models(Protocol):
    """The models there are."""

    catalogue: Catalogue

    def find(self, name: ModelName) -> Awaitable[Model | None]: ...

    def refresh(self) -> Awaitable[None]: ...


@dataclass(frozen=True)
class _Draft:
    """A model before the request's own texts. manifest: of the one it is made from, or of the uploaded files alone."""

    manifest: Manifest
    model: Model


async def create(request: CreateRequest, name: ModelName, models: Models, store: Store, pull: Pull) -> Events:
    """Write a model's manifest when all that it needs is there and can be served.

    What stands in the way raises ApiError, or VllamaError where it is not the request's fault.
    """
    check_request(request)
    check_new_name(name, models.catalogue)
    if request.from_:
        base = _parse(request.from_)
        if await models.find(base) is None:
            async for event in _fetch(base, models, store, pull):
                yield event
        found = await models.find(base)
        draft = await asyncio.to_thread(_inherit, found, request.from_, models.catalogue)
    else:
        files = digests(request.files)
        kind = await asyncio.to_thread(_kind, files, store)
        yield Progress(f"converting {kind}")
        read = _uploaded_adapter if kind == "adapter" else _uploaded_model
        draft = await asyncio.to_thread(read, name, files, models.catalogue, store)
    if request.adapters:
        if draft.model.adapter is not None:
            raise ApiError(400, "only one adapter is currently supported")
        yield Progress("converting adapter")
        files = digests(request.adapters)
        draft = await asyncio.to_thread(_uploaded_adapter, name, files, models.catalogue, store, draft)
    if draft.model.fault is not None:
        yield Progress(str(draft.model.fault))
    if request.renderer or request.parser:
        yield Progress(_NO_EFFECT)
    manifest = _with_texts(draft, request)
    for layer in _layers(manifest, draft):
        yield layer
    yield Progress("writing manifest")
    await asyncio.to_thread(store.write, name, manifest)
    await models.refresh()
    yield Progress("success")


def check_new_name(name: ModelName, catalogue: Catalogue) -> None:
    """Raises ApiError for a name that a model cannot be given."""
    if name.is_reserved:
        raise ApiError(400, f"invalid model name: {name.short} reads as a training run's: begin with another word")
    refuse_configured(name, catalogue)


def refuse_configured(name: ModelName, catalogue: Catalogue) -> None:
    """Raises ApiError for the name of a model that is there whatever the store holds."""
    model = catalogue.find(name)
    if model is not None and catalogue.is_configured(model):
        raise ApiError(
            400,
            f"{model.name.short} is one of the server's own models (--model, --lora, or built in): take another name, "
            "or start the server without it",
        )


def _parse(text: str) -> ModelName:
    try:
        name = parse(text)
    except InvalidName as error:
        raise ApiError(400, str(error)) from None
    if name.is_remote:
        raise ApiError(403, "ollama cloud is disabled: remote model is unavailable")
    return name


async def _fetch(name: ModelName, models: Models, store: Store, pull: Pull) -> Events:
    """A pull without its last word."""
    async with contextlib.aclosing(pull(name, store)) as events:
        async for event in events:
            if event.status != "success":
                yield event
    await models.refresh()


def _inherit(base: Model | None, wanted: str, catalogue: Catalogue) -> _Draft:
    if base is None:
        raise ApiError(404, f"model '{wanted}' not found")
    if base.fault is not None:
        raise ApiError(400, f"from: {base.fault}")
    manifest = msgspec.structs.replace(manifest_of(base, catalogue.find), parent=base.name.short)
    return _Draft(manifest, base)


def _kind(files: Mapping[str, str], store: Store) -> str:
    """`model` or `adapter`."""
    _require_blobs(files, store)
    if "adapter_config.json" in files and "config.json" not in files:
        return "adapter"
    if any(name.endswith(".safetensors") for name in files):
        return "model"
    for name, digest in files.items():
        with store.blobs.path(digest).open("rb") as file:
            if file.read(len(_GGUF)) == _GGUF:
                raise ApiError(400, NO_GGUF.format(name))
    raise ApiError(400, "unknown type: upload *.safetensors files, with the config.json that belongs to them")


def _require_blobs(files: Mapping[str, str], store: Store) -> None:
    for name, digest in files.items():
        if not store.blobs.has(digest):
            raise ApiError(500, f'{name}: blob "{digest}" not found: upload it to /api/blobs/{digest} first')


def _uploaded_model(name: ModelName, files: dict[str, str], _catalogue: Catalogue, store: Store) -> _Draft:
    folder = store.folder(files)
    with _about(name, folder):
        checkpoint = Inspector().checkpoint(folder)
    return _Draft(
        Manifest(weights=Origin("files", files=files)), Model(name, str(folder), name.short, checkpoint=checkpoint)
    )


def _uploaded_adapter(
    name: ModelName, files: dict[str, str], catalogue: Catalogue, store: Store, base: _Draft | None = None
) -> _Draft:
    """An adapter on `base`, else on the model that its own files name. What vLLM cannot load can still be merged."""
    _require_blobs(files, store)
    if sum(file.endswith(".safetensors") for file in files) > 1:
        raise ApiError(400, "only one adapter is currently supported")
    folder, inspector = store.folder(files), Inspector()
    with _about(name, folder):
        adapter = inspector.adapter(folder)
        known = [base.model] if base else list(catalogue)
        model = adapter_model(name, adapter, base.model.source if base else "", known, inspector)
        if model.fault is not None and not isinstance(model.fault, UnservableAdapterError):
            raise ConfigError(model.fault.message, "give the model that it was trained on as 'from', or FROM")
    origin = Origin("files", files=files)
    if base is not None:
        return _Draft(msgspec.structs.replace(base.manifest, adapter=origin), model)
    manifest = Manifest(weights=weights_of(model, catalogue.find), adapter=origin, parent=model.parent)
    return _Draft(manifest, model)


@contextlib.contextmanager
def _about(name: ModelName, folder: Path) -> Iterator[None]:
    """Says of the model what is wrong with the folder of its files, whose name nobody knows."""
    try:
        yield
    except ConfigError as error:
        raise ApiError(400, str(error).replace(str(folder), name.short)) from None


def _with_texts(draft: _Draft, request: CreateRequest) -> Manifest:
    """What the request says takes the place of what was inherited; parameters one by one, licences besides."""
    old = draft.manifest
    known = licences(draft.model)
    messages = tuple((message.role.lower(), message.content or "") for message in request.messages or ())
    return msgspec.structs.replace(
        old,
        system=request.system or old.system,
        template=_template(request.template, draft),
        parameters={**old.parameters, **read_parameters(request)},
        messages=messages or old.messages,
        license=(*old.license, *(text for text in request.licenses if text not in known)),
        renderer=request.renderer or old.renderer,
        parser=request.parser or old.parser,
        requires=read_version(request.requires or "") or old.requires,
    )


def _template(given: str | None, draft: _Draft) -> str:
    """The given one; what `show` says of the model is no change."""
    shown = template_of(draft.model) or NO_TEMPLATE
    if not given or given == shown:
        return draft.manifest.template
    if is_go_template(given):
        raise ApiError(400, f"template error: {GO_TEMPLATE}")
    return given


def _layers(manifest: Manifest, draft: _Draft) -> Iterator[Progress]:
    """Files lie there already; a text is new where it is not the inherited one."""
    for origin, part in ((manifest.weights, draft.model.checkpoint), (manifest.adapter, draft.model.adapter)):
        known = f"sha256:{part.digest}" if part is not None else None
        for digest in origin.files.values() if origin and origin.files else [known] if origin and known else []:
            yield Progress(f"using existing layer {digest}")
    old, new = _texts(draft.manifest), _texts(manifest)
    for name, value in new.items():
        verb = "using existing" if old.get(name) == value else "creating new"
        content = msgspec.json.encode(value, order="sorted")
        yield Progress(f"{verb} layer sha256:{hashlib.sha256(content).hexdigest()}")


def _texts(manifest: Manifest) -> dict[str, Any]:
    named = ("template", "system", "parameters", "messages", "license")
    return {name: value for name in named if (value := getattr(manifest, name))}
