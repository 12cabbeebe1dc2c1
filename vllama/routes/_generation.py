"""From a checked request of Ollama's to its reply: the engine is asked, and what it says translated as it comes."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from vllama.engine.client import Response as EngineResponse
from vllama.framing import Framing, JSONResponse, framing_of, until_client_leaves
from vllama.models.model import Model
from vllama.routes._completions import CompletionTranslator, decode
from vllama.routes._edge import gateway_of
from vllama.routes._engine import Line
from vllama.routes._failures import broken_off, engine_failures, refusal, twice
from vllama.routes._loading import load, tell_loading
from vllama.routes._prompt import Prepared, prepare, render
from vllama.routes._stream import Pipe, send_objects
from vllama.streams import Stream, behind
from vllama.translate.ollama_reply import GENERATE, Shape
from vllama.translate.reply import Piece, Reply, done_reason, metrics
from vllama.translate.request import EngineRequest
from vllama.translate.think_tags import ThinkTags
from vllama.translate.timestamp import timestamp, timestamp_bytes
from vllama.wire.ollama import Inference
from vllama.wire.openai import Completion

_encode = msgspec.json.Encoder().encode


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
        framing = framing_of(exchange.request)
        return await send_objects(exchange.request, _streamed(exchange, framing), framing)
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
                action = exchange.request.scope["path"].rpartition("/")[2]
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
        completion = decode(await response.read())
    piece = reply.feed(completion) or Piece()
    return JSONResponse(_final(exchange, reply, piece, first=time.monotonic_ns()))


def _streamed(exchange: Exchange, framing: Framing) -> Stream:
    """A streamed reply, behind chunks that tell of the model's load where the client asked for them."""
    reply = _relayed(exchange, framing)
    if not exchange.body.loading_status:
        return reply

    def chunk(text: str) -> bytes:
        return framing.frame(exchange.shape.chunk(exchange.wanted, timestamp(), Piece(thinking=text)))

    loading = load(gateway_of(exchange.request).scheduler, exchange.model, exchange.keep_alive)
    # The reply acquires the model for itself in the turn of the loop in which the load lets go of it, before it could
    # be unloaded. Whoever kept it meanwhile would stand in the way of those who wait for its memory, and so in the
    # reply's own.
    return behind(tell_loading(loading, chunk), reply)


async def _relayed(exchange: Exchange, framing: Framing) -> Stream:
    async with _engine_reply(exchange) as (response, reply):
        pipe = Pipe(response, _Chunks(exchange, reply, framing))
        outlet = yield await pipe.first()
        await pipe.rest(outlet)


class _Chunks(CompletionTranslator):
    """A completion as the objects of Ollama's stream."""

    def __init__(self, exchange: Exchange, reply: Reply, framing: Framing) -> None:
        head = framing.before + exchange.shape.before_time(exchange.wanted)
        super().__init__(reply, dated=(head, timestamp_bytes), with_tokens=exchange.shape is GENERATE)
        self._exchange = exchange
        self._framing = framing
        self._first = 0
        (before_thinking, after_thinking), (before, after) = exchange.shape.around_thinking, exchange.shape.around_text
        text = before, after + framing.after
        self.frames = {
            "reasoning": (before_thinking, after_thinking + framing.after), "content": text, "text": text,
        }  # fmt: skip

    def add(self, completion: Completion, out: list[bytes]) -> None:
        self._first = self._first or time.monotonic_ns()
        if piece := self._reply.feed(completion):
            chunk = self._exchange.shape.chunk(self._exchange.wanted, timestamp(), piece)
            out.append(self._framing.frame(chunk))

    def end(self, out: list[bytes]) -> None:
        if not self.complete and self._reply.finish_reason is None:
            raise broken_off()
        rest, first = self._reply.close() or Piece(), self._first or time.monotonic_ns()
        out.append(self._framing.frame(_encode(_final(self._exchange, self._reply, rest, first=first))))


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
