"""/api/generate and /api/chat."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.engine.client import Response as EngineResponse
from vllama.engine.client import server_sent_events
from vllama.errors import ApiError, EngineError
from vllama.framing import JSONResponse, Lines, stream, until_client_leaves
from vllama.models.catalogue import Model
from vllama.routes._edge import DIED, find_model, gateway_of, missing_in_engine, quote, read_body, timestamp
from vllama.translate.duration import parse_keep_alive
from vllama.translate.failure import failure_text
from vllama.translate.reply import Piece, Reply, done_reason, metrics
from vllama.translate.request import EngineRequest, chat_request, check_think, fit_context, generate_request
from vllama.wire.ollama import ChatChunk, ChatRequest, GenerateChunk, GenerateRequest, Inference, ReplyMessage
from vllama.wire.openai import Completion

_decode = msgspec.json.Decoder(Completion).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class _Shape:
    """How generate's and chat's replies differ. chunk: one streamed line. final: the text fields of the last object."""

    chunk: Callable[[str, str, Piece], bytes]
    final: Callable[[Piece], dict[str, Any]]


@dataclass
class _Exchange:
    """One request on its way: what the client wants, what the engine is asked, and when things happened (ns)."""

    request: Request
    wanted: str
    model: Model
    streamed: bool
    keep_alive: float | None
    shape: _Shape
    translate: Callable[[Model], EngineRequest]
    arrived: int
    loaded: int = 0


async def generate(request: Request) -> Response:
    arrived = time.monotonic_ns()
    body = await read_body(request, GenerateRequest)
    keep_alive = _check_values(body)
    model = await find_model(request, body.wanted)
    if not body.prompt and keep_alive == 0:
        return _unload(request, body.wanted, model, _GENERATE)
    if body.raw and body.system:
        raise ApiError(400, "raw mode does not support template, system, or context")
    _check_capabilities(body, model, "generate")
    _check_images(model, body.images)
    if not body.raw:
        _note_template(request, model)

    def translate(model: Model) -> EngineRequest:
        return generate_request(body, templated=model.templated, thinks=_thinks(model))

    exchange = _Exchange(
        request, body.wanted, model, body.stream is not False, keep_alive, _GENERATE, translate, arrived
    )
    return await (_answer(exchange) if body.prompt or body.images else _load(exchange))


async def chat(request: Request) -> Response:
    arrived = time.monotonic_ns()
    body = await read_body(request, ChatRequest)
    keep_alive = _check_values(body)
    if not body.wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(request, body.wanted)
    if not body.messages and keep_alive == 0:
        return _unload(request, body.wanted, model, _CHAT)
    _check_capabilities(body, model, "chat")
    _check_images(model, *(message.images for message in body.messages or ()))
    if body.tools and model.lacks("tools"):
        raise ApiError(400, f"{model.name.qualified} does not support tools")
    _note_template(request, model)

    def translate(model: Model) -> EngineRequest:
        return chat_request(body, templated=model.templated, thinks=_thinks(model))

    exchange = _Exchange(request, body.wanted, model, body.stream is not False, keep_alive, _CHAT, translate, arrived)
    return await (_answer(exchange) if body.messages else _load(exchange))


def _check_values(body: Inference) -> float | None:
    """Refuse what Ollama refuses while it reads the body. Returns keep_alive in seconds."""
    check_think(body.think)
    try:
        return parse_keep_alive(body.keep_alive)
    except ValueError as error:
        raise ApiError(400, str(error)) from None


def _check_capabilities(body: Inference, model: Model, action: str) -> None:
    if check_think(body.think) and model.lacks("thinking"):
        raise ApiError(400, f"{quote(body.wanted)} does not support thinking")
    if model.lacks("completion"):
        raise ApiError(400, f"{quote(body.wanted)} does not support {action}")


def _note_template(request: Request, model: Model) -> None:
    if not model.templated:
        gateway_of(request).note_once(
            f"template {model.name.key}",
            f"{model.name.short} has no chat template: its chats are the messages' contents one after another",
        )


def _check_images(model: Model, *images: list[str] | None) -> None:
    """`images` may also carry sound, for models that hear."""
    if any(images) and model.lacks("vision") and model.lacks("audio"):
        raise ApiError(400, f"{model.name.qualified} does not support vision")


def _thinks(model: Model) -> bool:
    """A model of which nothing is known is told what the client wants, should it understand."""
    return not model.lacks("thinking")


def _unload(request: Request, wanted: str, model: Model, shape: _Shape) -> Response:
    gateway_of(request).scheduler.unload(model)
    return JSONResponse(_notice(wanted, shape, "unload"))


async def _load(exchange: _Exchange) -> Response:
    """An empty request loads the model and says so, in one object even where a stream was asked for."""
    exchange.translate(exchange.model)

    async def load() -> None:
        async with gateway_of(exchange.request).scheduler.acquire(exchange.model, exchange.keep_alive):
            pass

    await until_client_leaves(exchange.request, load())
    return JSONResponse(_notice(exchange.wanted, exchange.shape, "load"))


def _notice(wanted: str, shape: _Shape, reason: str) -> dict[str, Any]:
    return {"model": wanted, "created_at": timestamp(), **shape.final(Piece()), "done": True, "done_reason": reason}


async def _answer(exchange: _Exchange) -> Response:
    # What is wrong with the request is said before a model is loaded for it.
    exchange.translate(exchange.model)
    if exchange.streamed:
        return await stream(exchange.request, _streamed_lines(exchange))
    return await until_client_leaves(exchange.request, _whole(exchange))


@contextlib.asynccontextmanager
async def _engine_reply(exchange: _Exchange) -> Any:
    """The engine's successful reply; leaving early aborts the request there.

    Raises ApiError where the engine refuses, or is gone.
    """
    scheduler = gateway_of(exchange.request).scheduler
    async with scheduler.acquire(exchange.model, exchange.keep_alive) as lease:
        exchange.loaded = time.monotonic_ns()
        asked = exchange.translate(lease.model)
        body = fit_context(asked.body, lease.context_length) | {"model": lease.model.engine_name}
        try:
            async with lease.client.request("POST", asked.path, _encode(body)) as response:
                if response.status == 404:
                    action = exchange.request.url.path.rpartition("/")[2]
                    raise missing_in_engine(exchange.wanted, await response.read(), action)
                if response.status != 200:
                    raise ApiError(*failure_text(response.status, await response.read()))
                yield response
        except EngineError as error:
            raise ApiError(500, f"{DIED}: {error.message}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(500, f"the engine's reply cannot be read: {error}") from error


async def _whole(exchange: _Exchange) -> Response:
    async with _engine_reply(exchange) as response:
        completion = _decode(await response.read())
    reply = Reply()
    piece = reply.feed(completion) or Piece()
    return JSONResponse(_final(exchange, reply, piece, first=time.monotonic_ns()))


async def _streamed_lines(exchange: _Exchange) -> Lines:
    """The lines of a streamed reply. An error after the first line is a line of its own, and the last."""
    began = False
    try:
        async with (
            _engine_reply(exchange) as response,
            contextlib.aclosing(_translate_stream(exchange, response)) as translated,
        ):
            async for lines in translated:
                began = True
                yield lines
    except ApiError as error:
        if not began:
            raise
        yield [_encode({"error": error.message})]


async def _translate_stream(exchange: _Exchange, response: EngineResponse) -> Lines:
    reply, first, complete = Reply(), 0, False
    async with contextlib.aclosing(server_sent_events(response)) as batches:
        async for events in batches:
            first = first or time.monotonic_ns()
            complete = complete or b"[DONE]" in events
            if lines := _translate_events(exchange, reply, events):
                yield lines
    if not complete and reply.finish_reason is None:
        raise ApiError(500, f"{DIED}: its reply broke off")
    rest = reply.close() or Piece()
    yield [_encode(_final(exchange, reply, rest, first=first or time.monotonic_ns()))]


def _translate_events(exchange: _Exchange, reply: Reply, events: list[bytes]) -> list[bytes]:
    """The lines for events that came together. Raises ApiError for an event that is an error."""
    created_at, chunk, lines = timestamp(), exchange.shape.chunk, []
    for event in events:
        if event == b"[DONE]":
            continue
        completion = _decode(event)
        if completion.error is not None:
            raise ApiError(*failure_text(500, event))
        if piece := reply.feed(completion):
            lines.append(chunk(exchange.wanted, created_at, piece))
    return lines


def _final(exchange: _Exchange, reply: Reply, piece: Piece, *, first: int) -> dict[str, Any]:
    """The last object of a stream, or the only one: `piece` is all the text there is."""
    reason = done_reason(reply.finish_reason)
    arrived = exchange.arrived
    return {
        "model": exchange.wanted,
        "created_at": timestamp(),
        **exchange.shape.final(piece),
        "done": True,
        **({"done_reason": reason} if reason else {}),
        **metrics(reply, load=exchange.loaded - arrived, first=first - arrived, total=time.monotonic_ns() - arrived),
    }


def _chat_chunk(model: str, created_at: str, piece: Piece) -> bytes:
    return _encode(ChatChunk(model, created_at, _message(piece)))


def _generate_chunk(model: str, created_at: str, piece: Piece) -> bytes:
    return _encode(GenerateChunk(model, created_at, piece.text, piece.thinking or UNSET))


def _message(piece: Piece) -> ReplyMessage:
    return ReplyMessage("assistant", piece.text, piece.thinking or UNSET, piece.tool_calls or UNSET)


def _generate_final(piece: Piece) -> dict[str, Any]:
    return {"response": piece.text} | ({"thinking": piece.thinking} if piece.thinking else {})


_CHAT = _Shape(_chat_chunk, lambda piece: {"message": _message(piece)})
_GENERATE = _Shape(_generate_chunk, _generate_final)

routes = [
    Route("/api/generate", generate, methods=["POST"]),
    Route("/api/chat", chat, methods=["POST"]),
]
