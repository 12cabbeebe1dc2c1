"""Requests that the engine understands as they are: handed through, and the reply back under the client's name for the
model. Loading, naming and what goes wrong are the gateway's.
"""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from vllama.dialects import dialect_of
from vllama.engine.client import Response as EngineResponse
from vllama.engine.client import event_blocks
from vllama.framing import STOPPING, begin, until_client_leaves
from vllama.models.model import Model
from vllama.routes._edge import gateway_of
from vllama.routes._engine import Body, Line
from vllama.routes._failures import engine_failures, failed, refusal, to_the_end, twice
from vllama.routes._reading import NOT_JSON, NULL

_fields_decoder = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.Encoder().encode


def rename(data: bytes, name: bytes, **more: Raw) -> bytes:
    """The JSON object in `data` with its `model` replaced. name: the client's, as JSON. more: other members to set."""
    try:
        fields = _fields_decoder.decode(data)
    except msgspec.DecodeError:
        return data  # `[DONE]`, or something else that names no model
    if "model" not in fields:
        return data
    return _encode(fields | {"model": Raw(name)} | more)


@dataclass(frozen=True)
class Handover:
    """What is handed to the engine.

    path: the engine's route. body: the members for an engine, once it is known which; `model` is set here, but for a
    form. action: what the model is asked to do, for the refusal of one that cannot. rename: puts the client's name for
    the model into a whole reply, or into the data of one event. adapt: what becomes of a whole event instead, b"" where
    nothing. failure: the events for a status and a message that end a stream, where the dialect's own will not do.
    """

    model: Model
    wanted: str
    path: str
    body: Callable[[Line], Awaitable[Body]]
    action: str = "this endpoint"
    rename: Callable[[bytes, bytes], bytes] = rename
    adapt: Callable[[bytes], bytes] | None = None
    failure: Callable[[int, str], bytes] | None = None


async def hand_over(request: Request, handover: Handover) -> Response:
    """The engine's reply as the client's. Raises ApiError where the engine refuses or dies before it."""
    return await twice(request, lambda: _hand_over(request, handover))


async def _hand_over(request: Request, handover: Handover) -> Response:
    async with contextlib.AsyncExitStack() as stack:
        upstream = await until_client_leaves(request, _ask_engine(request, handover, stack))
        if upstream.status == 200 and upstream.content_type == "text/event-stream":
            return await _stream(request, handover, _relay_events(upstream, handover, stack.pop_all()))
        with engine_failures():
            data = await until_client_leaves(request, upstream.read())
    return _whole(upstream, data, handover)


async def _stream(request: Request, handover: Handover, events: AsyncGenerator[bytes, None]) -> Response:
    dialect = dialect_of(request.url.path)
    failure = handover.failure or dialect.error_event
    await anext(events)  # from now on they close what they hold
    relay = to_the_end(events, lambda error: failure(error.status, error.message))
    return await begin(request, relay, "text/event-stream", dialect.error_event(503, STOPPING))


async def _ask_engine(request: Request, handover: Handover, stack: contextlib.AsyncExitStack) -> EngineResponse:
    gateway = gateway_of(request)
    line = Line(gateway, await stack.enter_async_context(gateway.scheduler.acquire(handover.model)))
    with engine_failures():
        body = await handover.body(line)
        return await stack.enter_async_context(line.post(handover.path, body))


async def _relay_events(
    upstream: EngineResponse, handover: Handover, stack: contextlib.AsyncExitStack
) -> AsyncGenerator[bytes, None]:
    """The engine's events under the client's model name, up to one that is an error.

    The first item is empty: whoever takes it owns what the generator's end closes.
    """
    name = _encode(handover.wanted)
    async with stack:
        yield b""
        batches = await stack.enter_async_context(contextlib.aclosing(event_blocks(upstream)))
        with engine_failures():
            async for blocks in batches:
                done: list[bytes] = []
                try:
                    for block in blocks:
                        done.append(_adapted_block(block, handover, name))  # noqa: PERF401 - kept if the next one fails
                finally:
                    if chunk := b"".join(done):
                        yield chunk


def _adapted_block(block: bytes, handover: Handover, name: bytes) -> bytes:
    head, _, data = block.rpartition(b"data: ")
    # In a text the quotation marks would be escaped.
    if b'"error"' in data:
        _raise_error(data)
    if handover.adapt is None:
        return head + b"data: " + handover.rename(data, name) + b"\n\n"
    try:
        return handover.adapt(block)
    except NOT_JSON:
        return block + b"\n\n"  # `[DONE]`, or nothing that a gateway understands


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
    with engine_failures():
        content = handover.rename(data, _encode(handover.wanted))
    return Response(content, upstream.status, media_type=upstream.content_type)
