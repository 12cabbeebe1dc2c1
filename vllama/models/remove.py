"""Deleting a model, with what nothing else needs of it. Everything here works on the disk."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from vllama.engine import caches
from vllama.errors import ApiError, ConfigError
from vllama.models import hub
from vllama.models.catalogue import Catalogue
from vllama.models.create import refuse_configured
from vllama.models.model import Model
from vllama.models.store import Manifest, Store


def remove(model: Model, catalogue: Catalogue, store: Store) -> None:
    """Forget a model of the store, or take a repository out of the hub's cache.

    Raises ApiError for a model that others answer for: the server's own, and folders of trainings.
    """
    refuse_configured(model.name, catalogue)
    _remove(model, catalogue, store)
    if all(other.weights != model.weights for other in catalogue if other.name.key != model.name.key):
        caches.forget(store.root.parent / "cache", model.weights)


def _remove(model: Model, catalogue: Catalogue, store: Store) -> None:
    if model.stored is not None:
        _forget(model.stored.manifest, model, catalogue, store)
        return
    cached = dict(hub.cached_repositories())
    repository = next((repo for repo, folder in cached.items() if folder == _folder(model)), None)
    if repository is None:
        raise ApiError(
            400,
            f"{model.name.short} is what lies in {_folder(model)}: remove that folder, or take it out of the settings",
        )
    _remove_cached(repository)


def _forget(manifest: Manifest, model: Model, catalogue: Catalogue, store: Store) -> None:
    """A repository that we fetched goes with the last model that needs it."""
    store.remove(model.name)
    if not manifest.fetched:
        return
    needed = {other.source for other in catalogue if other.name.key != model.name.key}
    needed |= _repositories(stored.manifest for stored in store)
    for repository in _repositories([manifest]) - needed:
        _remove_cached(repository)


def _repositories(manifests: Iterable[Manifest]) -> set[str]:
    origins = (origin for manifest in manifests for origin in (manifest.weights, manifest.adapter))
    return {origin.name for origin in origins if origin is not None and origin.kind == "hub"}


def _folder(model: Model) -> Path | None:
    part = model.adapter or model.checkpoint
    return part.path if part is not None else None


def _remove_cached(repository: str) -> None:
    """All of it, as huggingface_hub lays it out. It is gone at once for whoever looks, and then piece by piece."""
    cache = hub.cache_folder()
    name = f"models--{repository.replace('/', '--')}"
    try:
        with contextlib.suppress(FileNotFoundError):
            going = Path(tempfile.mkdtemp(dir=cache, prefix=".deleting-"))
            (cache / name).rename(going / name)
            shutil.rmtree(going)
        shutil.rmtree(cache / ".locks" / name, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"{cache / name} cannot be removed ({error.strerror})", "check its permissions") from None
