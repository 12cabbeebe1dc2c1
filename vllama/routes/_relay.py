"""Requests that the engine understands as they are: handed through, and the reply back under the client's name for the
model. Loading, naming and what goes wrong are the gateway's.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from vllama.engine.client import Response as EngineResponse
from vllama.engine.client import event_blocks
from vllama.errors import ApiError, EngineError
from vllama.framing import STOPPING, StreamResponse, until_client_leaves
from vllama.models.catalogue import Model
from vllama.routes._dialects import Dialect, dialect_of
from vllama.routes._edge import DIED, NOT_JSON, explain, first_value, gateway_of, missing_in_engine, read_bytes
from vllama.scheduler import Lease
from vllama.translate.failure import failure_text

T = TypeVar("T", bound=msgspec.Struct)

Fields = dict[str, Raw]
"""A JSON object of which only the members' names have been looked at."""

_NULL = Raw(b"null")

_fields_decoder = msgspec.json.Decoder(Fields)
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
    body: Callable[[Lease], Mapping[str, Any] | aiohttp.FormData]
    action: str = "this endpoint"
    rename: Callable[[bytes, bytes], bytes] = rename
    adapt: Callable[[bytes], bytes] | None = None
    failure: Callable[[int, str], bytes] | None = None


async def hand_over(request: Request, handover: Handover) -> Response:
    """The engine's reply as the client's. Raises ApiError where the engine refuses or dies before it."""
    dialect = dialect_of(request.url.path)
    stack = contextlib.AsyncExitStack()
    try:
        upstream = await until_client_leaves(request, _ask_engine(request, handover, stack))
        if upstream.status == 200 and upstream.content_type == "text/event-stream":
            relay = _relay_events(upstream, handover, dialect, stack.pop_all())
            await anext(relay)
            return StreamResponse(relay, "text/event-stream", last_words=dialect.error_event(503, STOPPING))
        with engine_failures():
            data = await until_client_leaves(request, upstream.read())
        return _whole(upstream, data, handover)
    finally:
        await stack.aclose()


async def read_fields(request: Request) -> Fields:
    """The members of the body. Raises ApiError 400 where it is no JSON object."""
    try:
        return _fields(await read_bytes(request))
    except NOT_JSON as error:
        raise ApiError(400, f"the request's body is not JSON: {error}") from None


async def read_request(request: Request, type_: type[T]) -> tuple[Fields, T]:
    """The members of the body that are not null, and those that the gateway reads.

    Raises ApiError 400 naming the member that is wrong and what was expected.
    """
    body = await read_bytes(request)
    try:
        return _members(body, type_)
    except NOT_JSON:
        # Halves of characters, and what follows the first value, are forgiven as Ollama forgives them.
        return _members(_repaired(body), type_)


def _members(body: bytes, type_: type[T]) -> tuple[Fields, T]:
    fields = {name: value for name, value in _fields(body).items() if value != _NULL}
    try:
        return fields, msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"invalid request: {explain(error)}") from None


def _repaired(body: bytes) -> bytes:
    try:
        return _encode(first_value(body))
    except (*NOT_JSON, ValueError) as error:
        raise ApiError(400, f"the request's body is not JSON: {error}") from None


def _fields(body: bytes) -> Fields:
    if not body.strip():
        raise ApiError(400, "EOF")
    try:
        return _fields_decoder.decode(body)
    except msgspec.ValidationError:
        raise ApiError(400, "the request's body must be a JSON object") from None


def text_field(fields: Fields, name: str) -> str:
    """A member that is a text, "" where it is absent or null. Raises ApiError 400 where it is something else."""
    try:
        return msgspec.json.decode(fields.get(name, b"null"), type=str | None) or ""
    except msgspec.ValidationError:
        raise ApiError(400, f"{name}: expected string") from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"{name}: {error}") from None


async def _ask_engine(request: Request, handover: Handover, stack: contextlib.AsyncExitStack) -> EngineResponse:
    lease = await stack.enter_async_context(gateway_of(request).scheduler.acquire(handover.model))
    body = handover.body(lease)
    with engine_failures():
        if isinstance(body, aiohttp.FormData):
            form = body()
            reply = lease.client.request("POST", handover.path, form, headers=form.headers)
        else:
            data = _encode({**body, "model": lease.model.engine_name})
            reply = lease.client.request("POST", handover.path, data)
        return await stack.enter_async_context(reply)


@contextlib.contextmanager
def engine_failures() -> Iterator[None]:
    """An engine that goes away, as the error that its clients get."""
    try:
        yield
    except EngineError as error:
        raise ApiError(500, f"{DIED}: {error.message}") from error


async def _relay_events(
    upstream: EngineResponse, handover: Handover, dialect: Dialect, stack: contextlib.AsyncExitStack
) -> AsyncGenerator[bytes, None]:
    """The engine's events under the client's model name. An error among them is the last.

    The first item is empty: whoever takes it owns what the generator's end closes.
    """
    name = _encode(handover.wanted)
    failure = handover.failure or dialect.error_event
    async with stack:
        yield b""
        done: list[bytes] = []
        try:
            async with contextlib.aclosing(event_blocks(upstream)) as batches:
                async for blocks in batches:
                    for block in blocks:
                        done.append(_adapted_block(block, handover, name))  # noqa: PERF401 - kept if the next one fails
                    chunk = b"".join(done)
                    done.clear()
                    if chunk:
                        yield chunk
        except EngineError as error:
            yield failure(500, f"{DIED}: {error.message}")
        except ApiError as error:
            yield b"".join(done) + failure(error.status, error.message)


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
        failed = _fields_decoder.decode(data).get("error", _NULL) != _NULL
    except NOT_JSON:
        return
    if failed:
        raise ApiError(*failure_text(500, data))


def _whole(upstream: EngineResponse, data: bytes, handover: Handover) -> Response:
    if upstream.status == 404:
        raise missing_in_engine(handover.wanted, data, handover.action)
    if upstream.status >= 400:
        raise ApiError(*failure_text(upstream.status, data))
    try:
        content = handover.rename(data, _encode(handover.wanted))
    except NOT_JSON as error:
        raise ApiError(500, f"the engine's reply cannot be read: {error}") from error
    return Response(content, upstream.status, media_type=upstream.content_type)
