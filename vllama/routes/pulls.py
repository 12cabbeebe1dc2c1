"""Ollama's endpoints that fetch models from the hub and bring them there."""

import contextlib
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import Framing, JSONResponse, framing_of, until_client_leaves
from vllama.gateway import Gateway
from vllama.models import pulls, pushes
from vllama.models._progress import Events
from vllama.models.names import InvalidName, ModelName, parse
from vllama.routes._edge import cloud_disabled, gateway_of
from vllama.routes._reading import read_body
from vllama.routes._stream import send_objects
from vllama.streams import poured
from vllama.wire.manage import Progress, PullRequest, PushRequest


async def pull(request: Request) -> Response:
    body = await read_body(request, PullRequest)
    try:
        name = parse(body.wanted)
    except InvalidName as error:
        raise ApiError(400, str(error)) from None
    _check(name, body)
    return await progress(request, _pull(gateway_of(request), name), streamed=body.stream is not False)


async def push(request: Request) -> Response:
    body = await read_body(request, PushRequest)
    if not body.wanted.strip():
        raise ApiError(400, "model is required")
    with contextlib.suppress(InvalidName):
        _check(parse(body.wanted), body)
    return await progress(request, _push(gateway_of(request), body.wanted), streamed=body.stream is not False)


async def progress(request: Request, events: AsyncGenerator[msgspec.Struct, None], *, streamed: bool) -> Response:
    """Events as they come, or the last one. What goes wrong after the first is a line of the stream.

    The work behind the events ends when the client leaves.
    """
    if streamed:
        framing = framing_of(request)
        return await send_objects(request, poured(_framed(events, framing)), framing)
    return JSONResponse(await until_client_leaves(request, _last(events)))


async def _framed(events: AsyncGenerator[msgspec.Struct, None], framing: Framing) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(events):
        async for event in events:
            yield framing.frame(msgspec.json.encode(event))


async def _last(events: AsyncGenerator[msgspec.Struct, None]) -> msgspec.Struct:
    last: msgspec.Struct = Progress("success")
    async with contextlib.aclosing(events):
        async for event in events:
            last = event
    return last


async def _pull(gateway: Gateway, name: ModelName) -> Events:
    known = gateway.catalogue.find(name)
    if gateway.store is None:
        raise ApiError(400, "this server's models are those of another one: pull the model there")
    if known is not None and known.checkpoint is not None and gateway.catalogue.is_configured(known):
        yield Progress("pulling manifest")
        yield Progress("success")
        return
    async with contextlib.aclosing(pulls.pull(name, gateway.store)) as events:
        async for event in events:
            if event.status == "success":
                await gateway.refresh()
            yield event


async def _push(gateway: Gateway, wanted: str) -> Events:
    yield Progress("retrieving manifest")
    try:
        name = parse(wanted)
    except InvalidName:
        yield Progress("couldn't retrieve manifest")
        raise ApiError(500, f"unqualified name: {wanted}") from None
    if (model := await gateway.find(name)) is None:
        yield Progress("couldn't retrieve manifest")
        path = f"{name.host}/{name.namespace}/{name.model}/{name.tag}"
        raise ApiError(500, f"open manifests/{path}: no such file or directory")
    if model.fault is not None:
        raise model.fault
    async with contextlib.aclosing(pushes.push(model)) as events:
        async for event in events:
            yield event


def _check(name: ModelName, body: PullRequest) -> None:
    if name.is_remote:
        raise cloud_disabled("remote model is unavailable")
    if body.wanted.lower().startswith("http://") and not body.insecure:
        raise ApiError(500, "insecure protocol http")


routes = [
    Route("/api/pull", pull, methods=["POST"]),
    Route("/api/push", push, methods=["POST"]),
]
