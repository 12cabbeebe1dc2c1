"""OpenAI's endpoints: handed through to the engine; loading, naming and the errors about models are ours."""

from typing import Any

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import JSONResponse
from vllama.gateway import Gateway, modified
from vllama.models.catalogue import Model
from vllama.models.names import InvalidName, parse
from vllama.routes._edge import find_model, gateway_of, get, quote
from vllama.routes._relay import Fields, Handover, hand_over, read_fields, text_field

_NULL = Raw(b"null")


async def list_models(request: Request) -> Response:
    gateway = gateway_of(request)
    return JSONResponse({"object": "list", "data": [_card(gateway, model) for model in await gateway.models()]})


async def get_model(request: Request) -> Response:
    wanted = request.path_params["model"]
    model = await find_model(request, wanted, unknown=_unknown_text(wanted))
    return JSONResponse(_card(gateway_of(request), model) | {"id": wanted})


def _unknown_text(wanted: str) -> str:
    try:
        return f"model '{parse(wanted).short}' not found"
    except InvalidName:
        return "model '{}' not found"


def _card(gateway: Gateway, model: Model) -> dict[str, Any]:
    return {
        "id": model.name.short,
        "object": "model",
        "created": int(modified(gateway.catalogue, model).timestamp()),
        "owned_by": model.name.namespace,
    }


async def hand_through(request: Request) -> Response:
    """Send the client's body on with the engine's name for the model, and the reply back with the client's."""
    body = await read_fields(request)
    wanted = text_field(body, "model")
    model = await _find_for(request, body, wanted)
    return await hand_over(request, Handover(model, wanted, request.url.path, lambda _lease: body))


async def _find_for(request: Request, body: Fields, wanted: str) -> Model:
    """The model, if it can do what the path asks for. The errors are those of Ollama's endpoint behind each path."""
    chats = request.url.path == "/v1/chat/completions"
    if chats and body.get("messages", _NULL) in (_NULL, Raw(b"[]")):
        raise ApiError(400, "[] is too short - 'messages'")
    if chats and not wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(request, wanted)
    if model.lacks("completion"):
        raise ApiError(400, f"{quote(wanted)} does not support {'chat' if chats else 'generate'}")
    return model


routes = [
    Route("/v1/chat/completions", hand_through, methods=["POST"]),
    Route("/v1/completions", hand_through, methods=["POST"]),
    get("/v1/models", list_models),
    get("/v1/models/{model:path}", get_model),
]
