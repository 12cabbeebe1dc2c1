"""The models that can be asked for, by name: those that the server was started with, and those found on the disk."""

import threading
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from vllama.errors import ConfigError
from vllama.models.model import Model
from vllama.models.names import ModelName

Shelf = Callable[[Mapping[str, Model]], Iterable[Model]]
"""Lists what lies somewhere on the disk. It is given the models before its own by the keys of their names."""


class Catalogue:
    """Models by name: names match without regard to case, and `:latest` may be left out.

    models: those that are there whatever the disk holds; they come first. shelves: where more are found, the first of
    them first. Raises ConfigError where two of the models have one name.
    """

    def __init__(self, models: Iterable[Model], shelves: Sequence[Shelf] = ()) -> None:
        self._models: dict[str, Model] = {}
        self._found: dict[str, Model] = {}
        self._shelves = shelves
        self._refreshing = threading.Lock()
        self.created = datetime.now(UTC)
        for model in models:
            if model.name.key in self._models:
                raise ConfigError(
                    f"two models are named {model.name.short}", "give one another name: --model NAME=SOURCE"
                )
            self._models[model.name.key] = model

    def __iter__(self) -> Iterator[Model]:
        return iter((self._found | self._models).values())

    def __len__(self) -> int:
        return len(self._found | self._models)

    def find(self, name: ModelName) -> Model | None:
        return self._models.get(name.key) or self._found.get(name.key)

    def find_by_source(self, source: str) -> Model | None:
        """The first model that is served from this hub repository as it is, whatever its name."""
        return next((model for model in self if model.source.lower() == source.lower() and not model.adapter), None)

    def is_configured(self, model: Model) -> bool:
        """Whether it is there because the server was started with it."""
        return model.name.key in self._models

    def put(self, model: Model) -> None:
        """Replace the model of the same name, or add one that is there until the server ends."""
        home = self._found if model.name.key in self._found else self._models
        home[model.name.key] = model

    def replace_all(self, models: Iterable[Model]) -> None:
        self._models = {model.name.key: model for model in models}

    def refresh(self) -> None:
        """Look again at what the disk holds. Blocks: a thread's work."""
        with self._refreshing:
            found: dict[str, Model] = {}
            known = ChainMap(self._models, found)
            for shelf in self._shelves:
                for model in shelf(known):
                    found.setdefault(model.name.key, model)
            self._found = found
