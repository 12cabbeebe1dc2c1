"""/api/generate and /api/chat: what is checked before a model is loaded, in Ollama's order."""

import time
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import JSONResponse
from vllama.models.model import Model
from vllama.routes._abilities import check_abilities
from vllama.routes._ask import checked_keep_alive, load
from vllama.routes._edge import find_model, gateway_of, quote
from vllama.routes._engine import refuse_templates
from vllama.routes._generation import Exchange, answer, notice
from vllama.routes._reading import read_body
from vllama.translate.messages import check_images, media_abilities
from vllama.translate.ollama_reply import CHAT, GENERATE, Shape
from vllama.translate.options import check_options, inexpressible
from vllama.translate.request import (
    EngineRequest,
    Target,
    chat_request,
    check_think,
    check_top_logprobs,
    client_template,
    generate_request,
)
from vllama.wire.ollama import ChatRequest, GenerateRequest, Inference


async def generate(request: Request) -> Response:
    arrived = time.monotonic_ns()
    body = await read_body(request, GenerateRequest)
    images = body.images or []
    keep_alive = _check_values(body, images)
    model = await find_model(request, body.wanted)
    if not body.prompt and keep_alive == 0:
        return _unload(request, body.wanted, model, GENERATE)
    if body.raw and (body.template or body.system or body.context):
        raise ApiError(400, "raw mode does not support template, system, or context")
    _check_capabilities(body, model, "generate")
    check_abilities(model, ["insert"] if body.suffix else ())
    _check_options(request, body, model)

    refuse_templates(gateway_of(request), client_template(body))

    def translate(model: Model) -> EngineRequest:
        return generate_request(body, Target.of(model))

    exchange = Exchange(request, body, model, keep_alive, GENERATE, translate, arrived)
    return await _load_or_answer(exchange, images, empty=not body.prompt)


async def chat(request: Request) -> Response:
    arrived = time.monotonic_ns()
    body = await read_body(request, ChatRequest)
    messages = body.messages or []
    images = [image for message in messages for image in message.images or ()]
    keep_alive = _check_values(body, images)
    if not body.wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(request, body.wanted)
    if not messages and keep_alive == 0:
        return _unload(request, body.wanted, model, CHAT)
    _check_capabilities(body, model, "chat")
    check_abilities(model, ["tools"] if body.tools else ())
    _check_options(request, body, model)

    def translate(model: Model) -> EngineRequest:
        return chat_request(body, Target.of(model))

    exchange = Exchange(request, body, model, keep_alive, CHAT, translate, arrived)
    return await _load_or_answer(exchange, images, empty=not messages)


def _check_values(body: Inference, images: Iterable[str]) -> float | None:
    """Refuse what Ollama refuses while it reads the body. Returns keep_alive in seconds."""
    check_think(body.think)
    check_images(images)
    keep_alive = checked_keep_alive(body.keep_alive)
    check_top_logprobs(body.top_logprobs)
    return keep_alive


def _check_capabilities(body: Inference, model: Model, action: str) -> None:
    if (check_think(body.think) or body.thinking_token_budget) and model.lacks("thinking"):
        raise ApiError(400, f"{quote(body.wanted)} does not support thinking")
    if model.lacks("completion"):
        raise ApiError(400, f"{quote(body.wanted)} does not support {action}")


def _check_options(request: Request, body: Inference, model: Model) -> None:
    """Refuse options of wrong types; those that vLLM has no word for are logged once."""
    for name, value in inexpressible(check_options(body.options or {})).items():
        gateway_of(request).note_once(
            f"option {name}", f"the option {name} ({value}) is ignored, here and from now on: vLLM has nothing like it"
        )
    if not model.templated:
        gateway_of(request).note_once(
            f"template {model.name.key}",
            f"{model.name.short} has no chat template: its chats are the messages' contents one after another",
        )


def _unload(request: Request, wanted: str, model: Model, shape: Shape) -> Response:
    gateway_of(request).scheduler.unload(model)
    return JSONResponse(notice(wanted, shape, "unload"))


async def _load_or_answer(exchange: Exchange, images: list[str], *, empty: bool) -> Response:
    """An empty request loads the model and says so, in one object even where a stream was asked for."""
    if empty:
        await load(exchange.request, exchange.model, exchange.keep_alive)
        return JSONResponse(notice(exchange.body.wanted, exchange.shape, "load"))
    check_abilities(exchange.model, media_abilities(images))
    # What is wrong with the request is said before a model is loaded for it.
    exchange.translate(exchange.model)
    return await answer(exchange)


routes = [
    Route("/api/generate", generate, methods=["POST"]),
    Route("/api/chat", chat, methods=["POST"]),
]
