"""Requests that the engine understands as they are: handed through, and the reply back under the client's name for the
model. Loading, naming and what goes wrong are the gateway's.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from vllama.dialects import dialect_of
from vllama.engine.client import Response as EngineResponse
from vllama.engine.events import data_of
from vllama.framing import STOPPING, until_client_leaves
from vllama.models.model import Model
from vllama.routes._edge import gateway_of
from vllama.routes._engine import Body, Line
from vllama.routes._failures import engine_failures, failed, refusal, to_the_end, twice, unreadable
from vllama.routes._reading import NOT_JSON, NULL
from vllama.routes._stream import Pipe
from vllama.streams import Stream, begin
from vllama.translate.shortcut import Express, Write

_MISSHAPEN = (KeyError, TypeError, AttributeError)
"""What a `Reply` raises for JSON that lacks what belongs to it, or has something else there."""

_fields_decoder = msgspec.json.Decoder(dict[str, Raw])


class Reply(Protocol):
    """Makes of the engine's reply to one request what its client is to see."""

    def whole(self, data: bytes) -> bytes: ...

    def shortcut(self, block: bytes) -> Iterable[bytes] | None:
        """What an event becomes, in pieces, where that is known without reading it; None where it must be read."""
        ...

    def express(self, write: Write) -> Express | None:
        """As `Translator` has it."""
        ...

    def event(self, block: bytes, data: bytes) -> bytes:
        """What an event becomes, b"" where nothing. data: the block's. Raises what NOT_JSON names where it is none."""
        ...


@dataclass(frozen=True)
class Handover:
    """What is handed to the engine.

    path: the engine's route. body: the members for an engine, once it is known which; `model` is set here, but for a
    form. reply: adapts the reply. action: what the model is asked to do, for the refusal of one that cannot. failure:
    the events for a status and a message that end a stream, where the dialect's own will not do.
    """

    model: Model
    wanted: str
    path: str
    body: Callable[[Line], Awaitable[Body]]
    reply: Reply
    action: str = "this endpoint"
    failure: Callable[[int, str], bytes] | None = None


async def hand_over(request: Request, handover: Handover) -> Response:
    """The engine's reply as the client's. Raises ApiError where the engine refuses or dies before it."""
    return await twice(request, lambda: _hand_over(request, handover))


async def _hand_over(request: Request, handover: Handover) -> Response:
    async with contextlib.AsyncExitStack() as stack:
        upstream = await until_client_leaves(request, _ask_engine(request, handover, stack))
        if upstream.status == 200 and upstream.content_type == "text/event-stream":
            return await _stream(request, handover, _relayed(upstream, handover.reply, stack))
        data = await until_client_leaves(request, upstream.read())
    return _whole(upstream, data, handover)


async def _stream(request: Request, handover: Handover, stream: Stream) -> Response:
    dialect = dialect_of(request.scope["path"])
    failure = handover.failure or dialect.error_event
    told = to_the_end(stream, lambda error: failure(error.status, error.message))
    return await begin(request, told, "text/event-stream", dialect.error_event(503, STOPPING))


async def _ask_engine(request: Request, handover: Handover, stack: contextlib.AsyncExitStack) -> EngineResponse:
    gateway = gateway_of(request)
    line = Line(gateway, await stack.enter_async_context(gateway.scheduler.acquire(handover.model)))
    stack.enter_context(engine_failures())  # around the request: what ends it says what became of the engine
    body = await handover.body(line)
    return await stack.enter_async_context(line.post(handover.path, body))


async def _relayed(upstream: EngineResponse, reply: Reply, stack: contextlib.AsyncExitStack) -> Stream:
    """The engine's events, adapted. stack: belongs to the stream from its first bytes on."""
    pipe = Pipe(upstream, _Events(reply))
    first = await pipe.first()
    async with stack.pop_all():
        outlet = yield first
        await pipe.rest(outlet)


class _Events:
    """Has a reply's events adapted, up to one that is an error."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.express = reply.express

    def feed(self, blocks: list[bytes], out: list[bytes]) -> None:
        for block in blocks:
            if (pieces := self._reply.shortcut(block)) is not None:
                out += pieces
            elif (data := data_of(block)) and (made := self._read(block, data)):
                out.append(made)

    def end(self, out: list[bytes]) -> None:
        """Nothing is added: what ends a reply is the engine's to say."""

    def _read(self, block: bytes, data: bytes) -> bytes:
        # In a text the quotation marks would be escaped.
        if b'"error"' in data:
            _raise_error(data)
        try:
            return self._reply.event(block, data)
        except NOT_JSON:
            return block + b"\n\n"  # `[DONE]`, or nothing that a gateway understands
        except _MISSHAPEN as error:
            raise unreadable(error) from error


def _raise_error(data: bytes) -> None:
    try:
        is_error = _fields_decoder.decode(data).get("error", NULL) != NULL
    except NOT_JSON:
        return
    if is_error:
        raise failed(data)


def _whole(upstream: EngineResponse, data: bytes, handover: Handover) -> Response:
    if upstream.status >= 400:
        raise refusal(upstream.status, data, wanted=handover.wanted, action=handover.action)
    try:
        content = handover.reply.whole(data)
    except (*NOT_JSON, *_MISSHAPEN) as error:
        raise unreadable(error) from error
    return Response(content, upstream.status, media_type=upstream.content_type)
