"""What is on the disk: the cache of Hugging Face, and the models that were pulled and made."""

from collections.abc import Iterator
from pathlib import Path

from vllama.doctor.finding import Finding, ok, problem, warning
from vllama.engine.memory import gigabytes
from vllama.models.hub import cache_folder, cached_repositories
from vllama.models.store import Store
from vllama.settings import Settings

_SHOWN = 10


def check(settings: Settings) -> Iterator[Finding]:
    yield from _cache(cache_folder())
    store = Store(settings.home / "models")
    broken = store.broken()
    for path in broken[:_SHOWN]:
        yield problem("models", f"{path} is no manifest", "create or pull the model again, or remove the file")
    if settings.engine_url is None:
        yield from _served(settings, store)


def _cache(folder: Path) -> Iterator[Finding]:
    unfinished = {path: path.stat().st_size for path in folder.glob("models--*/blobs/*.incomplete")}
    for storage in sorted({path.parents[1] for path in unfinished})[:_SHOWN]:
        repo = storage.name.removeprefix("models--").replace("--", "/", 1)
        size = sum(size for path, size in unfinished.items() if path.is_relative_to(storage))
        advice = f"`vllama pull {repo}` goes on with it; to give it up, remove {storage}"
        yield warning("model cache", f"{repo} is not completely here ({gigabytes(size)} of it unfinished)", advice)
    whole = len(list(cached_repositories()))
    yield ok("model cache", f"{whole} whole repositor{'y' if whole == 1 else 'ies'} in {folder}")


def _served(settings: Settings, store: Store) -> Iterator[Finding]:
    """What `vllama serve` would have with these settings."""
    from vllama.server import open_catalogue

    catalogue = list(open_catalogue(settings, store, strict=False))
    faults = [(model, model.fault) for model in catalogue if model.fault is not None]
    for model, fault in faults[:_SHOWN]:
        yield warning("models", f"{model.name.short} cannot be served: {fault.message}", fault.advice)
    yield ok("models", f"{len(catalogue) - len(faults)} can be served")
