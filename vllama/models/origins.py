"""Models as manifests name them: what a copy of one, or one made from it, is written down as."""

from collections.abc import Callable
from pathlib import Path

from vllama.models import hub
from vllama.models.model import Model
from vllama.models.names import InvalidName, ModelName, parse
from vllama.models.sources import BUILT_IN, origin_of
from vllama.models.store import Manifest, Origin

Find = Callable[[ModelName], Model | None]


def manifest_of(model: Model, find: Find) -> Manifest:
    """Under another name it is the same model. find: the models there are, for the base of an adapter."""
    if model.stored is not None:
        return model.stored.manifest
    return Manifest(weights=weights_of(model, find), adapter=_adapter_of(model))


def weights_of(model: Model, find: Find) -> Origin:
    """Of an adapter its base's, wherever these come from: a folder of links has no name of its own."""
    base = _base_of(model, find) if model.adapter is not None else None
    return origin_of(base or model)


def _base_of(adapter: Model, find: Find) -> Model | None:
    try:
        base = find(parse(adapter.parent))
    except InvalidName:
        return None
    return base if base is not None and base.weights == adapter.weights else None


def _adapter_of(model: Model) -> Origin | None:
    if model.adapter is None:
        return None
    path = model.adapter.path
    built_in = next((name for name, folder in BUILT_IN.items() if folder == path), None)
    if built_in is not None:
        return Origin("demo", built_in)
    return _cached(path) or Origin("folder", str(path))


def _cached(path: Path) -> Origin | None:
    """The repository and the commit, of a folder in the Hugging Face cache."""
    found = (repo for repo, folder in hub.cached_repositories() if folder == path)
    return next((Origin("hub", repo, path.name) for repo in found), None)
