"""What a request needs of a model, against what the model can do."""

from collections.abc import Iterable

from vllama.errors import ApiError
from vllama.models.catalogue import Model
from vllama.routes._edge import quote


def check_abilities(model: Model, wanted: str, needs: Iterable[str], think: bool | str | None = None) -> None:
    """Raises ApiError 400, in Ollama's words, for the first thing that the model is known not to be able to do."""
    if think and model.lacks("thinking"):
        raise ApiError(400, f"{quote(wanted)} does not support thinking")
    for capability in sorted(needs):
        if model.lacks(capability):
            raise ApiError(400, f"{model.name.qualified} does not support {capability}")
