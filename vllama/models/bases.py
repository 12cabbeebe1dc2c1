"""The base model of an adapter: which of the models at hand it is."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vllama.errors import ConfigError
from vllama.models import hub
from vllama.models.adapters import Adapter
from vllama.models.names import ModelName, is_valid, name_from_source, parse

# unsloth trains on quantised copies that it publishes beside the original ones; vLLM does not load these.
_QUANTISED_COPY = re.compile(r"(-unsloth)?-bnb-4bit$", re.IGNORECASE)


class Base(NamedTuple):
    """name: None where it is no model's yet. source: the folder or the hub repository with the weights."""

    name: ModelName | None
    source: str


def base_of(adapter: Adapter, name: str, known: Iterable[tuple[ModelName, str]], given: str = "") -> Base:
    """The model that the adapter called `name` is to be served on.

    known: names and sources of the models there are, whole ones only. given: what the user said it is, a name, a
    folder or a hub repository; else it is what the adapter's folder tells. Raises ConfigError where no model is it, or
    more than one.
    """
    wanted = given or adapter.base
    if not wanted:
        raise ConfigError(
            f"the adapter {name} ({adapter.path}) does not tell its base model", f"name it: {_by_hand(adapter, name)}"
        )
    found = candidates(wanted, known, strict=bool(given))
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(sorted(str(model.name or model.source) for model in found))
        raise ConfigError(
            f"the adapter {name} wants the base {wanted}, which could be any of {choices}",
            f"name one: {_by_hand(adapter, name)}",
        )
    raise ConfigError(
        f"the adapter {name} wants the base {wanted}, which is not here", _how_to_get(wanted, adapter, name)
    )


def candidates(wanted: str, known: Iterable[tuple[ModelName, str]], strict: bool = False) -> list[Base]:
    """The models that are surest to be meant by a base's name or path, one of each source.

    strict: take it at its word, not for a path or a copy on another machine.
    """
    for found in _steps(wanted, list(known), strict):
        if by_source := {model.source: model for model in reversed(found)}:
            return list(by_source.values())
    return []


def _steps(wanted: str, known: list[tuple[ModelName, str]], strict: bool) -> Iterator[list[Base]]:
    """What it could be, the surest first."""
    models = [Base(*one) for one in known]
    key = parse(wanted).key if is_valid(wanted) else ""
    yield [model for model in models if model.name and model.name.key == key][:1]
    yield [model for model in models if _identity(model.source) == _identity(wanted)]
    if folder := _folder(wanted):
        yield [Base(None, str(folder.absolute()))]
    yield _cached(wanted)
    if strict:
        return
    original = _QUANTISED_COPY.sub("", wanted)
    if original != wanted:
        yield [model for model in models if _identity(model.source) == _identity(original)]
        yield _cached(original)
    last = _last_part(original)
    # A repository of another organisation may be another model; a folder is called as its owner likes.
    folders_only = original == wanted and _is_hub_id(wanted)
    yield [
        model
        for model in models
        if last in (_last_part(model.source), model.name and model.name.model.lower())
        and not (folders_only and _is_hub_id(model.source))
    ]


def _cached(wanted: str) -> list[Base]:
    """The repository, where it is in the hub's cache: an adapter that is pulled has its base there."""
    return [Base(None, wanted)] if hub.is_hub_id(wanted) and hub.cached_snapshot(wanted) else []


def _identity(source: str) -> str:
    """Equal for a hub repository, its folder in the cache, and an adapter's path to it in another machine's cache."""
    named = name_from_source(source)
    if "/" in named:
        return named.lower()
    folder = _folder(source)
    return str(folder.resolve()) if folder else source.lower()


def _folder(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if path.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # too long, or of an unknown user
        return None


def _last_part(source: str) -> str:
    return name_from_source(source).rsplit("/", 1)[-1].lower()


def _is_hub_id(source: str) -> bool:
    return "/" in name_from_source(source)


def _by_hand(adapter: Adapter, name: str) -> str:
    return f"--lora {name}={adapter.path}@BASE"


def _how_to_get(wanted: str, adapter: Adapter, name: str) -> str:
    by_hand = f"say which model it is: {_by_hand(adapter, name)}"
    if _QUANTISED_COPY.search(wanted):
        return f"vLLM does not load that quantised copy: pull the model it was made from, and {by_hand}"
    return f"run `vllama pull {wanted}`, or {by_hand}" if is_valid(wanted) and _is_hub_id(wanted) else by_hand
