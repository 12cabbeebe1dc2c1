"""Pulling a model: where its name leads, the files of it that come, and the manifest that is written in the end."""

import asyncio
import contextlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vllama.errors import VllamaError
from vllama.models import hub, library
from vllama.models._files import read_json
from vllama.models._progress import Events, Transfer
from vllama.models.adapters import is_adapter
from vllama.models.names import TAG, ModelName
from vllama.models.store import Manifest, Origin, Store
from vllama.wire.manage import Progress

UNKNOWN = "pull model manifest: file does not exist"
"""What Ollama says of a model that is nowhere. Its command line looks for these words."""

_GGUF_TAG = re.compile(r"i?q\d\w*|bf16|f16|fp16|f32|mxfp4", re.IGNORECASE)


class UnknownModelError(VllamaError):
    """The name leads nowhere."""


@dataclass(frozen=True)
class Place:
    """A hub repository. revision: None for the newest."""

    repo: str
    revision: str | None = None


def locate(name: ModelName) -> Place:
    """The repository of a model of the library, or the one that the name reads as. Raises UnknownModelError.

    A repository's tag is one of its revisions, except where it names a GGUF file, as is usual in the hub's names for
    Ollama: there is one set of weights for all of those.
    """
    if (entry := library.resolve(name)) is not None:
        return Place(entry.repo)
    if name.hub_id is not None and hub.is_hub_id(name.hub_id):
        newest = name.tag.lower() == TAG or _GGUF_TAG.fullmatch(name.tag)
        return Place(name.hub_id, None if newest else name.tag)
    if known := library.tags(name):
        raise UnknownModelError(UNKNOWN, f"{name.model} has the tags {', '.join(known)}")
    advice = "name a repository of the hub, like Qwen/Qwen3-4B"
    raise UnknownModelError(UNKNOWN, f"there is no '{name.model}' among the known models of Ollama's library: {advice}")


async def pull(name: ModelName, store: Store) -> Events:
    """Fetch what a name leads to, with the base of an adapter, and write its manifest.

    What is here already is told at once. Raises VllamaError; a download of which only this pull wants to know ends
    when the generator is closed.
    """
    yield Progress("pulling manifest")
    place = await asyncio.to_thread(_place, name, store)
    fetched = await asyncio.to_thread(hub.cached_snapshot, place.repo, place.revision) is None
    download = _download(place)
    async with contextlib.aclosing(download.events()) as events:
        async for event in events:
            yield event
    folder = download.result
    if (base := await asyncio.to_thread(_missing_base, folder)) is not None:
        async with contextlib.aclosing(_download(Place(base)).events()) as events:
            async for event in events:
                yield event
    yield Progress("verifying sha256 digest")
    yield Progress("writing manifest")
    await asyncio.to_thread(_register, store, name, place, folder, fetched)
    yield Progress("success")


def _place(name: ModelName, store: Store) -> Place:
    """As `locate`, but the repository's id as it was written when it was first pulled: its cache goes by that."""
    place, stored = locate(name), store.read(name)
    origins = (stored.manifest.weights, stored.manifest.adapter) if stored else ()
    known = (origin.name for origin in origins if origin is not None and origin.name.lower() == place.repo.lower())
    return replace(place, repo=next(known, place.repo))


def _download(place: Place) -> Transfer[Path]:
    async def work(report: hub.Report) -> Path:
        try:
            return await hub.download(place.repo, revision=place.revision, report=report)
        except hub.RepositoryNotFoundError as error:
            raise UnknownModelError(UNKNOWN, str(error)) from error

    return Transfer("pulling", work)


def _missing_base(folder: Path) -> str | None:
    """The repository that has to be fetched before the adapter in the folder can be served."""
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path") if is_adapter(folder) else None
    if not isinstance(base, str) or not hub.is_hub_id(base) or hub.cached_snapshot(base) is not None:
        return None
    return base


def _register(store: Store, name: ModelName, place: Place, folder: Path, fetched: bool) -> None:
    """Write the manifest, unless it says the same already: a model that did not change keeps its date."""
    before = store.read(name)
    fetched = fetched or (before is not None and before.manifest.fetched)
    origin = Origin("hub", place.repo, revision=folder.name)
    adapter = is_adapter(folder)
    manifest = Manifest(weights=None if adapter else origin, adapter=origin if adapter else None, fetched=fetched)
    if before is None or before.manifest != manifest:
        store.write(name, manifest)
