"""OpenAI's endpoints: handed through to the engine; loading, naming and the errors about models are ours."""

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.engine.client import Response as EngineResponse
from vllama.engine.client import server_sent_events
from vllama.errors import ApiError, EngineError
from vllama.framing import STOPPING, JSONResponse, StreamResponse, until_client_leaves
from vllama.gateway import Gateway, modified
from vllama.models.catalogue import Model
from vllama.models.names import InvalidName, parse
from vllama.routes._edge import DIED, NOT_JSON, find_model, gateway_of, get, missing_in_engine, quote
from vllama.translate.failure import failure_text

_NULL = Raw(b"null")
_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_object_decoder = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


def error_response(status: int, message: str) -> Response:
    """OpenAI's error shape, with the types that Ollama gives."""
    return JSONResponse(_failure(status, message), status)


def _failure(status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": _TYPES.get(status, "api_error"), "param": None, "code": None}}


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
    body = await _read_object(request)
    wanted = _model_name(body)
    model = await _find_for(request, body, wanted)
    stack = contextlib.AsyncExitStack()
    try:
        upstream = await until_client_leaves(request, _ask_engine(request, body, model, stack))
        if upstream.content_type == "text/event-stream":
            relay = _relay_events(upstream, _encode(wanted), stack.pop_all())
            await anext(relay)
            stopping = b"data: " + _encode(_failure(503, STOPPING)) + b"\n\n"
            return StreamResponse(relay, "text/event-stream", last_words=stopping)
        with _engine_failures():
            data = await until_client_leaves(request, upstream.read())
        return _whole(upstream.status, data, wanted)
    finally:
        await stack.aclose()


async def _find_for(request: Request, body: dict[str, Raw], wanted: str) -> Model:
    """The model, if it can do what the path asks for. The errors are those of Ollama's endpoint behind each path."""
    path = request.url.path
    if path == "/v1/embeddings":
        unknown = 'model "{}" not found, try pulling it first' if wanted.strip() else "model '{}' not found"
        model = await find_model(request, wanted, unknown=unknown)
        if model.lacks("embedding"):
            raise ApiError(400, f"{quote(wanted)} does not support embeddings")
        return model
    chats = path == "/v1/chat/completions"
    if chats and body.get("messages", _NULL) in (_NULL, Raw(b"[]")):
        raise ApiError(400, "[] is too short - 'messages'")
    if chats and not wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(request, wanted)
    if model.lacks("completion"):
        raise ApiError(400, f"{quote(wanted)} does not support {'chat' if chats else 'generate'}")
    return model


async def _ask_engine(
    request: Request, body: dict[str, Raw], model: Model, stack: contextlib.AsyncExitStack
) -> EngineResponse:
    lease = await stack.enter_async_context(gateway_of(request).scheduler.acquire(model))
    body["model"] = Raw(_encode(lease.model.engine_name))
    with _engine_failures():
        return await stack.enter_async_context(lease.client.request("POST", request.url.path, _encode(body)))


@contextlib.contextmanager
def _engine_failures() -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        raise ApiError(500, f"{DIED}: {error.message}") from error


async def _relay_events(
    upstream: EngineResponse, name: bytes, stack: contextlib.AsyncExitStack
) -> AsyncGenerator[bytes, None]:
    """The engine's events with the client's model name in them. name: as JSON.

    The first item is empty: whoever takes it owns what the generator's end closes.
    """
    async with stack:
        yield b""
        try:
            async with contextlib.aclosing(server_sent_events(upstream)) as batches:
                async for events in batches:
                    yield b"".join(b"data: " + _rename(event, name) + b"\n\n" for event in events)
        except EngineError as error:
            yield b"data: " + _encode(_failure(500, f"{DIED}: {error.message}")) + b"\n\n"


def _rename(event: bytes, name: bytes) -> bytes:
    if event == b"[DONE]":
        return event
    try:
        fields = _object_decoder.decode(event)
    except msgspec.DecodeError:
        return event  # whatever it is, it names no model
    if "model" in fields:
        fields["model"] = Raw(name)
    return _encode(fields)


def _whole(status: int, data: bytes, wanted: str) -> Response:
    if status == 404:
        raise missing_in_engine(wanted, data, "this endpoint")
    if status >= 400:
        raise ApiError(*failure_text(status, data))
    return Response(_rename(data, _encode(wanted)), status, media_type="application/json")


async def _read_object(request: Request) -> dict[str, Raw]:
    body = await request.body()
    if not body.strip():
        raise ApiError(400, "EOF")
    try:
        return _object_decoder.decode(body)
    except msgspec.ValidationError:
        raise ApiError(400, "the request's body must be a JSON object") from None
    except NOT_JSON as error:
        raise ApiError(400, f"the request's body is not JSON: {error}") from None


def _model_name(body: dict[str, Raw]) -> str:
    try:
        return msgspec.json.decode(body.get("model", _NULL), type=str | None) or ""
    except msgspec.ValidationError:
        raise ApiError(400, "model: expected string") from None


routes = [
    Route("/v1/chat/completions", hand_through, methods=["POST"]),
    Route("/v1/completions", hand_through, methods=["POST"]),
    Route("/v1/embeddings", hand_through, methods=["POST"]),
    get("/v1/models", list_models),
    get("/v1/models/{model:path}", get_model),
]
