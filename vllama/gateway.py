"""What every route works with."""

import logging
from dataclasses import dataclass, field
from datetime import datetime

from vllama.engine.client import EngineClient
from vllama.errors import ApiError, EngineError
from vllama.models.catalogue import Catalogue, Model
from vllama.models.names import ModelName, is_valid, name_from_source, parse
from vllama.scheduler import Scheduler
from vllama.wire.openai import ModelCard, ModelList

logger = logging.getLogger("vllama")


@dataclass
class Gateway:
    """The models, who runs them, and, where that is somebody else, the connection to ask for their names.

    max_body: most bytes of a request's body, as it arrives and unpacked.
    """

    catalogue: Catalogue
    scheduler: Scheduler
    attached: EngineClient | None = None
    preload: Model | None = None
    max_body: int = 256 * 2**20
    _noted: set[str] = field(default_factory=set)

    async def find(self, name: ModelName) -> Model | None:
        """The model of that name, None where there is none."""
        if self.attached is not None and self.catalogue.find(name) is None:
            await self.refresh()
        return self.catalogue.find(name)

    async def models(self) -> list[Model]:
        """All models, the most recently changed first."""
        if self.attached is not None:
            await self.refresh()
        return sorted(self.catalogue, key=lambda model: -modified(self.catalogue, model).timestamp())

    async def refresh(self) -> None:
        """Ask a server that somebody else runs what it serves. Raises ApiError 502 where it does not answer."""
        assert self.attached is not None
        try:
            listed: ModelList = await self.attached.get_json("/v1/models", seconds=10.0, type_=ModelList)
        except EngineError as error:
            raise ApiError(
                502,
                f"the server at {self.attached.url} does not list its models: {error.message}; "
                "check that it runs, and --engine-url",
            ) from error
        self.catalogue.replace_all(_attached_model(card) for card in listed.data)

    def note_once(self, key: str, text: str) -> None:
        """Log what concerns a model, not a request, the first time only."""
        if key not in self._noted:
            self._noted.add(key)
            logger.info("%s", text)


def modified(catalogue: Catalogue, model: Model) -> datetime:
    """When the model's files last changed; where that is not known, when the catalogue was made."""
    return model.checkpoint.modified if model.checkpoint else catalogue.created


def _attached_model(card: ModelCard) -> Model:
    name = parse(card.id if is_valid(card.id) else name_from_source(card.id))
    return Model(name, source=card.id, engine_name=card.id, context_length=card.max_model_len)
