"""Ollama's endpoints that make, copy and delete models."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.gateway import Gateway
from vllama.models.create import check_new_name, create
from vllama.models.create_request import check_files
from vllama.models.names import InvalidName, ModelName, parse
from vllama.models.origins import manifest_of
from vllama.models.pulls import pull
from vllama.models.remove import remove
from vllama.models.store import Store
from vllama.routes._edge import gateway_of, quote
from vllama.routes._reading import read_body
from vllama.routes.pulls import progress
from vllama.wire.create import CopyRequest, CreateRequest, DeleteRequest


async def create_model(request: Request) -> Response:
    body = await read_body(request, CreateRequest)
    check_files(body)
    name = _name(body.wanted, "invalid model name")
    gateway = gateway_of(request)
    events = create(body, name, gateway, store_of(gateway), pull)
    return await progress(request, events, streamed=body.stream is not False)


async def copy(request: Request) -> Response:
    body = await read_body(request, CopyRequest)
    given = {"source": body.source or "", "destination": body.destination or ""}
    source, destination = (_name(text, f"{field} {quote(text)} is invalid") for field, text in given.items())
    gateway = gateway_of(request)
    store = store_of(gateway)
    if (model := await gateway.find(source)) is None:
        raise ApiError(404, f"model {quote(given['source'])} not found")
    if source.key != destination.key:
        check_new_name(destination, gateway.catalogue)
        manifest = await asyncio.to_thread(manifest_of, model, gateway.catalogue.find)
        await asyncio.to_thread(store.write, destination, manifest)
        await gateway.refresh()
    return Response()


async def delete(request: Request) -> Response:
    """What answers with the model goes on to its end; nobody else finds it."""
    body = await read_body(request, DeleteRequest)
    if not body.wanted.strip():
        raise ApiError(400, "model is required")
    name = _name(body.wanted, f"name {quote(body.wanted)} is invalid", is_local=True)
    gateway = gateway_of(request)
    store = store_of(gateway)
    await gateway.refresh()
    if (model := gateway.catalogue.find(name)) is None:  # by this very name, not by where it comes from
        raise ApiError(404, f"model '{body.wanted}' not found")
    await asyncio.to_thread(remove, model, gateway.catalogue, store)
    await gateway.refresh()
    return Response()


def store_of(gateway: Gateway) -> Store:
    if gateway.store is None:
        raise ApiError(400, "this server's models are those of another one, given as --engine-url: change them there")
    return gateway.store


def _name(text: str, refusal: str, *, is_local: bool = False) -> ModelName:
    """is_local: whether a name of Ollama's cloud is just one that is not here."""
    try:
        name = parse(text)
    except InvalidName as error:
        raise ApiError(400, str(error) if "not both" in str(error) else refusal) from None
    if name.is_remote and not is_local:
        raise ApiError(400, f"{refusal}: {name.short} reads as a model of Ollama's cloud: take another tag")
    return name


routes = [
    Route("/api/create", create_model, methods=["POST"]),
    Route("/api/copy", copy, methods=["POST"]),
    Route("/api/delete", delete, methods=["DELETE"]),
]
