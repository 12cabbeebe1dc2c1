"""A model, as far as it is known."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from vllama.errors import VllamaError
from vllama.models.adapters import Adapter
from vllama.models.inspect import Checkpoint
from vllama.models.modelfile import Modelfile
from vllama.models.names import ModelName
from vllama.models.store import Stored


@dataclass(frozen=True)
class Model:
    """A name and where its weights come from.

    source: a folder's path or a hub repository's id; for an adapter its base's. checkpoint: of the weights; None as
    long as a hub repository is not downloaded, and for models of an engine that somebody else runs. engine_name: what
    the engine calls the model, for an adapter the name under which it is loaded. context_length: in tokens, where the
    engine said it. modelfile: what goes with the weights in every conversation. adapter: a LoRA adapter on the
    weights. parent: the name of the model that it was made from, or of an adapter's base. stored: the manifest that
    it comes from, None for models that need none. fault: why it cannot be served, in spite of its name.
    """

    name: ModelName
    source: str
    engine_name: str
    checkpoint: Checkpoint | None = None
    context_length: int | None = None
    modelfile: Modelfile = field(default_factory=Modelfile)
    adapter: Adapter | None = None
    parent: str = ""
    stored: Stored | None = None
    fault: VllamaError | None = None

    @property
    def weights(self) -> str:
        """Equal for the models that one engine serves, whatever goes with their weights."""
        return self.source

    @property
    def capabilities(self) -> tuple[str, ...]:
        """As clients are told; of a model of which nothing is known, what most can."""
        return self.checkpoint.capabilities if self.checkpoint else ("completion", "tools")

    def lacks(self, capability: str) -> bool:
        """Whether the model is known not to be able to do this."""
        return self.checkpoint is not None and capability not in self.capabilities

    @property
    def templated(self) -> bool:
        """Whether the engine can be asked for chats. A model of which nothing is known is taken to have a template."""
        return self.checkpoint is None or self.checkpoint.chats or self.modelfile.template is not None

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(part.size for part in (self.checkpoint, self.adapter) if part is not None)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        if self.stored is not None:
            return self.stored.digest
        if self.adapter is not None:
            return self.adapter.digest
        return self.checkpoint.digest if self.checkpoint else hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def modified(self) -> datetime | None:
        """When it last changed, None where that is not known."""
        owner = self.stored or self.adapter or self.checkpoint
        return owner.modified if owner else None
