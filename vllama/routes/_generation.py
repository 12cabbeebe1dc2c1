"""From a checked request of Ollama's to its reply: the engine is asked, and what it says translated as it comes."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from vllama.engine.client import Response as EngineResponse
from vllama.engine.client import server_sent_events
from vllama.errors import ApiError, EngineGoneError
from vllama.framing import JSONResponse, Lines, stream, until_client_leaves
from vllama.models.model import Model
from vllama.routes._edge import gateway_of, timestamp
from vllama.routes._engine import Line
from vllama.routes._failures import broken_off, engine_failures, failed, refusal, to_the_end, twice
from vllama.routes._loading import load, tell_loading
from vllama.routes._prompt import Prepared, prepare, render
from vllama.translate.reply import Piece, Reply, done_reason, metrics
from vllama.translate.request import EngineRequest
from vllama.translate.think_tags import ThinkTags
from vllama.wire.ollama import ChatChunk, GenerateChunk, Inference, ReplyMessage
from vllama.wire.openai import Completion

_decode = msgspec.json.Decoder(Completion).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Shape:
    """How generate's and chat's replies differ.

    chunk: one streamed line. texts: the text fields of the last object. logprobs_last: whether they come behind the
    metrics there. rendered: the text fields where the prompt was only rendered.
    """

    chunk: Callable[[str, str, Piece], bytes]
    texts: Callable[[Piece], dict[str, Any]]
    logprobs_last: bool
    rendered: dict[str, Any]


@dataclass
class Exchange:
    """One request on its way: what the client wants, what the engine is asked, and when things happened (ns)."""

    request: Request
    body: Inference
    model: Model
    keep_alive: float | None
    shape: Shape
    translate: Callable[[Model], EngineRequest]
    arrived: int
    loaded: int = 0

    @property
    def wanted(self) -> str:
        return self.body.wanted


def notice(wanted: str, shape: Shape, reason: str) -> dict[str, Any]:
    """The reply to a request that loads or unloads a model."""
    return {"model": wanted, "created_at": timestamp(), **shape.texts(Piece()), "done": True, "done_reason": reason}


async def answer(exchange: Exchange) -> Response:
    """The reply to a request that has something to answer. Raises ApiError for what goes wrong before it begins."""
    return await twice(exchange.request, lambda: _answer(exchange))


async def _answer(exchange: Exchange) -> Response:
    if exchange.body.debug_render_only:
        return await until_client_leaves(exchange.request, _rendered(exchange))
    if exchange.body.stream is not False:
        return await stream(exchange.request, to_the_end(_told_lines(exchange), _failure_line))
    return await until_client_leaves(exchange.request, _whole(exchange))


@contextlib.asynccontextmanager
async def _line(exchange: Exchange) -> AsyncIterator[Line]:
    """The engine. Raises EngineGoneError where it is lost, ApiError where it says what cannot be read."""
    gateway = gateway_of(exchange.request)
    async with gateway.scheduler.acquire(exchange.model, exchange.keep_alive) as lease:
        exchange.loaded = time.monotonic_ns()
        with engine_failures():
            yield Line(gateway, lease)


@contextlib.asynccontextmanager
async def _engine_reply(exchange: Exchange) -> AsyncIterator[tuple[EngineResponse, Reply]]:
    """The engine's successful reply, and what reads it; leaving early aborts the request there.

    Raises ApiError where the engine refuses, EngineGoneError where it is lost.
    """
    async with _line(exchange) as line:
        asked = await prepare(line, exchange.translate(line.lease.model))
        async with line.post(asked.path, asked.body) as response:
            if response.status != 200:
                action = exchange.request.url.path.rpartition("/")[2]
                raise refusal(response.status, await response.read(), wanted=exchange.wanted, action=action)
            yield response, _reply_to(exchange, asked)


def _reply_to(exchange: Exchange, asked: Prepared) -> Reply:
    tags = ThinkTags(begun=asked.thinking_begun) if asked.context else None
    return Reply(tags, tools="tools" in asked.body, top_logprobs=exchange.body.top_logprobs or 0)


async def _rendered(exchange: Exchange) -> Response:
    async with _line(exchange) as line:
        text, images = await render(line, exchange.translate(line.lease.model))
    info = {"rendered_template": text} | ({"image_count": images} if images else {})
    head = {"model": exchange.wanted, "created_at": timestamp(), **exchange.shape.rendered, "done": False}
    return JSONResponse(head | {"_debug_info": info})


async def _whole(exchange: Exchange) -> Response:
    async with _engine_reply(exchange) as (response, reply):
        completion = _decode(await response.read())
    piece = reply.feed(completion) or Piece()
    return JSONResponse(_final(exchange, reply, piece, first=time.monotonic_ns()))


def _told_lines(exchange: Exchange) -> Lines:
    """The lines of a streamed reply, behind those that tell of the model's load where the client asked for them."""
    lines = _streamed_lines(exchange)
    if not exchange.body.loading_status:
        return lines

    def chunk(text: str) -> bytes:
        return exchange.shape.chunk(exchange.wanted, timestamp(), Piece(thinking=text))

    loading = load(gateway_of(exchange.request).scheduler, exchange.model, exchange.keep_alive)
    return tell_loading(loading, chunk, lines)


async def _streamed_lines(exchange: Exchange) -> Lines:
    async with (
        _engine_reply(exchange) as (response, reply),
        contextlib.aclosing(_translate_stream(exchange, response, reply)) as translated,
    ):
        async for lines in translated:
            yield lines


def _failure_line(error: ApiError) -> list[bytes]:
    return [_encode({"error": error.message})]


async def _translate_stream(exchange: Exchange, response: EngineResponse, reply: Reply) -> Lines:
    first, complete = 0, False
    async with contextlib.aclosing(server_sent_events(response)) as batches:
        async for events in batches:
            first = first or time.monotonic_ns()
            complete = complete or b"[DONE]" in events
            lines: list[bytes] = []
            try:
                _translate_events(exchange, reply, events, lines)
            except (ApiError, EngineGoneError, msgspec.DecodeError, UnicodeDecodeError):
                if lines:  # they came before what is wrong
                    yield lines
                raise
            if lines:
                yield lines
    if not complete and reply.finish_reason is None:
        raise broken_off()
    rest = reply.close() or Piece()
    yield [_encode(_final(exchange, reply, rest, first=first or time.monotonic_ns()))]


def _translate_events(exchange: Exchange, reply: Reply, events: list[bytes], lines: list[bytes]) -> None:
    """Append the lines for events that came together. Raises what an event says that is an error."""
    created_at, chunk = timestamp(), exchange.shape.chunk
    for event in events:
        if event == b"[DONE]":
            continue
        completion = _decode(event)
        if completion.error is not None:
            raise failed(event)
        if piece := reply.feed(completion):
            lines.append(chunk(exchange.wanted, created_at, piece))


def _final(exchange: Exchange, reply: Reply, piece: Piece, *, first: int) -> dict[str, Any]:
    """The last object of a stream, or the only one: `piece` is all the text there is."""
    reason = done_reason(reply.finish_reason)
    arrived, shape = exchange.arrived, exchange.shape
    numbers = metrics(reply, load=exchange.loaded - arrived, first=first - arrived, total=time.monotonic_ns() - arrived)
    logprobs = {"logprobs": piece.logprobs} if piece.logprobs else {}
    return {
        "model": exchange.wanted,
        "created_at": timestamp(),
        **shape.texts(piece),
        "done": True,
        **({"done_reason": reason} if reason else {}),
        **({"context": reply.tokens} if reply.tokens else {}),
        **(numbers | logprobs if shape.logprobs_last else logprobs | numbers),
    }


def _chat_chunk(model: str, created_at: str, piece: Piece) -> bytes:
    return _encode(ChatChunk(model, created_at, _message(piece), logprobs=piece.logprobs or UNSET))


def _generate_chunk(model: str, created_at: str, piece: Piece) -> bytes:
    chunk = GenerateChunk(model, created_at, piece.text, piece.thinking or UNSET, logprobs=piece.logprobs or UNSET)
    return _encode(chunk)


def _message(piece: Piece) -> ReplyMessage:
    return ReplyMessage("assistant", piece.text, piece.thinking or UNSET, piece.tool_calls or UNSET)


def _generate_texts(piece: Piece) -> dict[str, Any]:
    return {"response": piece.text} | ({"thinking": piece.thinking} if piece.thinking else {})


def _chat_texts(piece: Piece) -> dict[str, Any]:
    return {"message": _message(piece)}


CHAT = Shape(_chat_chunk, _chat_texts, logprobs_last=False, rendered={"message": {"role": "", "content": ""}})
GENERATE = Shape(_generate_chunk, _generate_texts, logprobs_last=True, rendered={"response": ""})
