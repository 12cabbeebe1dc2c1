"""What every route works with."""

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vllama.admission import Admission
from vllama.engine.client import EngineClient
from vllama.engine.standby import Standby
from vllama.engine.stats import Stats
from vllama.errors import ApiError, EngineError
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import TAG, ModelName, is_valid, name_from_source, parse
from vllama.models.store import Store
from vllama.progress_log import LoadLog, ShowLoads
from vllama.scheduling.scheduler import Scheduler
from vllama.wire.openai import ModelCard, ModelList

logger = logging.getLogger("vllama")

_FRESH_S = 1.0


@dataclass
class Gateway:
    """The models, who runs them, and, where that is somebody else, the connection to ask for their names.

    standby: who forks the engines, started and closed by the application. store: where made and pulled models are kept,
    None where the models are somebody else's. preload: what to load at once, in this order. on_gpu: whether loaded
    models take a GPU's memory. max_body: most bytes of a request's body, as it arrives and unpacked. admission: how
    many requests are let in. trusts_templates: whether clients may send chat templates of their own. stats: of the
    engines. show_loads: tells people who see the server's log how far the loading of models is. stopping: nothing that
    only watches goes on.
    """

    catalogue: Catalogue
    scheduler: Scheduler
    attached: EngineClient | None = None
    standby: Standby | None = None
    store: Store | None = None
    preload: Sequence[Model] = ()
    on_gpu: bool = True
    max_body: int = 256 * 2**20
    admission: Admission = field(default_factory=Admission)
    trusts_templates: bool = False
    stats: Stats = field(default_factory=Stats)
    show_loads: ShowLoads = field(default_factory=LoadLog)
    stopping: bool = False
    _looked: float = -math.inf
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _noted: set[str] = field(default_factory=set)

    def drain(self) -> None:
        """The server stops: end what waits and what watches. Requests that run go on."""
        self.stopping = True
        self.scheduler.drain()
        self.scheduler.changes.note()  # which wakes those who watch

    async def find(self, name: ModelName) -> Model | None:
        """The model of that name, or from the hub repository that the name reads as, None where there is none."""
        model = self._known(name)
        if model is None:
            await self.refresh()
        elif not self.catalogue.is_configured(model):
            await self.refresh(_FRESH_S)  # another process may have changed it on the disk
        else:
            return model
        return self._known(name)

    def _known(self, name: ModelName) -> Model | None:
        model = self.catalogue.find(name)
        # Another tag names one of the repository's other formats.
        if model is None and name.hub_id is not None and name.tag.lower() == TAG:
            return self.catalogue.find_by_source(name.hub_id)
        return model

    async def models(self) -> list[Model]:
        """All models, the most recently changed first."""
        await self.refresh()
        served = (model for model in self.catalogue if model.fault is None)
        return sorted(served, key=lambda model: -modified(self.catalogue, model).timestamp())

    async def refresh(self, age: float = 0.0) -> None:
        """See what models there are, or were so many seconds ago; those who want to at the same time look once.

        Raises ApiError 502 where a server that somebody else runs does not answer.
        """
        wanted = time.monotonic() - age
        if self._looked >= wanted:
            return
        async with self._looking:
            if self._looked < wanted:
                began = time.monotonic()
                await self._look()
                self._looked = began

    async def _look(self) -> None:
        if self.attached is not None:
            await self._ask_attached(self.attached)
        else:
            await asyncio.to_thread(self.catalogue.refresh)

    async def _ask_attached(self, attached: EngineClient) -> None:
        try:
            listed: ModelList = await attached.get_json("/v1/models", seconds=10.0, type_=ModelList)
        except EngineError as error:
            raise ApiError(
                502,
                f"the server at {attached.url} does not list its models: {error.message}; "
                "check that it runs, and --engine-url",
            ) from error
        self.catalogue.replace_all(self._attached_models({card.id: card for card in listed.data}.values()))

    def _attached_models(self, cards: Iterable[ModelCard]) -> Iterator[Model]:
        """The server's models by names of their own. Ids that are names keep them, the first of two that read alike."""
        owners: dict[str, str] = {}
        for card in sorted(cards, key=lambda card: not _is_name(card.id)):
            name = parse(card.id if _is_name(card.id) else name_from_source(card.id))
            if (owner := owners.setdefault(name.key, card.id)) != card.id:
                name = name.set_apart(card.id)
                self.note_once(f"name {card.id}", f"{card.id} is called {name.short}, as {owner} has its name")
            yield Model(name, source=card.id, engine_name=card.id, context_length=card.max_model_len)

    def note_once(self, key: str, text: str) -> None:
        """Log what concerns a model, not a request, the first time only."""
        if key not in self._noted:
            self._noted.add(key)
            logger.info("%s", text)


def modified(catalogue: Catalogue, model: Model) -> datetime:
    """When the model's files last changed; where that is not known, when the catalogue was made."""
    return model.modified or catalogue.created


def _is_name(identifier: str) -> bool:
    return is_valid(identifier) and not parse(identifier).is_remote
