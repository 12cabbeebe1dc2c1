"""What a request needs of a model, against what the model can do."""

from collections.abc import Iterable

from vllama.errors import ApiError
from vllama.models.model import Model
from vllama.routes._edge import quote


def check_chat(model: Model, wanted: str, needs: Iterable[str], *, think: bool | str | None) -> None:
    """Raises ApiError 400, in Ollama's words, where the model is known not to be able to take part in such a chat."""
    if model.lacks("completion"):
        raise ApiError(400, f"{quote(wanted)} does not support chat")
    if not model.templated:
        raise ApiError(400, f"{quote(wanted)} has no chat template: use /v1/completions, or /api/generate")
    if think and model.lacks("thinking"):
        raise ApiError(400, f"{quote(wanted)} does not support thinking")
    check_abilities(model, needs)


def check_abilities(model: Model, needs: Iterable[str]) -> None:
    """Raises ApiError 400, in Ollama's words, for the first thing that the model is known not to be able to do."""
    for capability in sorted(needs):
        if model.lacks(capability):
            raise ApiError(400, f"{model.name.qualified} does not support {capability}")
