"""The models that can be asked for: what `--model` names, and what is known of each from its checkpoint."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllama import demo
from vllama.errors import ConfigError
from vllama.models import hub
from vllama.models.inspect import Checkpoint, inspect
from vllama.models.modelfile import Modelfile
from vllama.models.names import ModelName, name_from_source, parse, parse_model_argument

BUILT_IN = {"demo": demo.CHAT, "demo-embed": demo.EMBED}
"""Models that come with the package."""


@dataclass(frozen=True)
class Model:
    """A name and where its weights come from.

    source: a folder's path or a hub repository's id. checkpoint: None as long as a hub repository is not downloaded,
    and for models of an engine that somebody else runs. engine_name: what the engine calls the model.
    context_length: in tokens, where the engine said it. modelfile: what goes with the weights in every conversation.
    """

    name: ModelName
    source: str
    engine_name: str
    checkpoint: Checkpoint | None = None
    context_length: int | None = None
    modelfile: Modelfile = field(default_factory=Modelfile)
    revision: str | None = None
    adapter: Any = None

    @property
    def weights(self) -> str:
        """Equal for models that one engine serves, whatever adapter or Modelfile goes with them."""
        return self.source

    @property
    def capabilities(self) -> tuple[str, ...]:
        """As clients are told; of a model of which nothing is known, what most can."""
        return self.checkpoint.capabilities if self.checkpoint else ("completion", "tools")

    def lacks(self, capability: str) -> bool:
        """Whether the model is known not to be able to do this."""
        return self.checkpoint is not None and capability not in self.checkpoint.capabilities

    @property
    def templated(self) -> bool:
        """Whether the engine can be asked for chats. A model of which nothing is known is taken to have a template."""
        return self.checkpoint is None or self.checkpoint.chats

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return self.checkpoint.digest if self.checkpoint else hashlib.sha256(self.source.encode()).hexdigest()


class Catalogue:
    """Models by name: names match without regard to case, and `:latest` may be left out."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models: dict[str, Model] = {}
        self.created = datetime.now(UTC)
        for model in models:
            if model.name.key in self._models:
                raise ConfigError(
                    f"two models are named {model.name.short}", "give one another name: --model NAME=SOURCE"
                )
            self._models[model.name.key] = model

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: ModelName) -> Model | None:
        return self._models.get(name.key)

    def find_by_source(self, source: str) -> Model | None:
        """The first model that is served from this hub repository, whatever its name."""
        return next((model for model in self if model.source.lower() == source.lower()), None)

    def put(self, model: Model) -> None:
        """Add a model, or replace the one of the same name."""
        self._models[model.name.key] = model

    def replace_all(self, models: Iterable[Model]) -> None:
        self._models = {model.name.key: model for model in models}


def read_catalogue(arguments: Sequence[str]) -> Catalogue:
    """The models that `--model` arguments name; the built-in ones where there is none.

    Raises ConfigError for a source that cannot be served, with the reason.
    """
    return Catalogue(_read_model(argument) for argument in arguments or BUILT_IN)


def _read_model(argument: str) -> Model:
    given, source = parse_model_argument(argument)
    if source in BUILT_IN and not Path(source).exists():
        path: Path | None = BUILT_IN[source]
        name = parse(given or source)
    else:
        path = _folder(source)
        name = parse(given or name_from_source(source))
    if name.is_remote:
        raise ConfigError(
            f"{name.short} reads as a model of Ollama's cloud",
            "give another tag than `cloud` and those ending in `-cloud`",
        )
    checkpoint = inspect(path) if path else None
    return Model(
        name,
        source=str(path) if path and not hub.is_hub_id(source) else source,
        engine_name=name.short,
        checkpoint=checkpoint,
    )


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
