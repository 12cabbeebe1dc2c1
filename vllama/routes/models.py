"""Ollama's endpoints about the server and its models."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from vllama import OLLAMA_VERSION, __version__
from vllama.errors import ApiError
from vllama.framing import JSONResponse
from vllama.gateway import Gateway, modified
from vllama.models.inspect import read_tensors
from vllama.models.model import Model
from vllama.models.show import description, details
from vllama.routes._edge import find_model, gateway_of, get
from vllama.routes._reading import read_body
from vllama.scheduling.scheduler import Loaded
from vllama.wire.ollama import ShowRequest

_FOREVER = timedelta(days=292 * 365.2425)
"""Ollama's longest duration, 2^63-1 nanoseconds: clients show it as "Forever"."""


async def root(_request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def version(_request: Request) -> Response:
    """Ollama's version, which clients compare; `vllama` is ours."""
    return JSONResponse({"version": OLLAMA_VERSION, "vllama": __version__})


async def tags(request: Request) -> Response:
    gateway = gateway_of(request)
    return JSONResponse({"models": [_tag(gateway, model) for model in await gateway.models()]})


async def ps(request: Request) -> Response:
    gateway = gateway_of(request)
    if gateway.attached is not None:
        await gateway.refresh()
    now = datetime.now(UTC)
    entries = sorted(gateway.scheduler.loaded(), key=lambda loaded: -loaded.remaining)
    return JSONResponse({"models": [_process(loaded, now, on_gpu=gateway.on_gpu) for loaded in entries]})


async def show(request: Request) -> Response:
    body = await read_body(request, ShowRequest)
    if not body.wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(
        request, body.wanted, unknown="model '{short}' not found", remote="remote model details are unavailable"
    )
    tensors = await asyncio.to_thread(read_tensors, model.checkpoint) if body.verbose and model.checkpoint else []
    changed = modified(gateway_of(request).catalogue, model)
    shown = description(model, modified=changed, system=body.system or "", options=body.options, tensors=tensors)
    if request.headers.get("user-agent", "").startswith("GitHubCopilotChat/"):
        shown["model_info"]["general.basename"] = body.wanted  # by which Copilot asks for the model
    return JSONResponse(shown)


def _tag(gateway: Gateway, model: Model) -> dict[str, Any]:
    name = model.name.short
    tag = {
        "name": name,
        "model": name,
        "modified_at": modified(gateway.catalogue, model).isoformat(),
        "size": model.size,
        "digest": model.digest,
        "details": details(model, lengths=True),
    }
    return tag | ({"capabilities": model.capabilities} if model.capabilities else {})


def _process(loaded: Loaded, now: datetime, *, on_gpu: bool) -> dict[str, Any]:
    model, size = loaded.model, loaded.size or loaded.model.size
    remaining = timedelta(seconds=min(loaded.remaining, _FOREVER.total_seconds()))
    return {
        "name": model.name.short,
        "model": model.name.short,
        "size": size,
        "digest": model.digest,
        "details": details(model, lengths=False),
        "expires_at": (now + remaining).isoformat(),
        "size_vram": size if on_gpu else 0,
        "context_length": loaded.context_length or (model.checkpoint.context_length if model.checkpoint else 0),
    }


routes = [
    Route("/", root, methods=["GET"]),
    Route("/api/version", version, methods=["GET"]),
    Route("/api/tags", tags, methods=["GET"]),
    get("/api/ps", ps),
    Route("/api/show", show, methods=["POST"]),
]
