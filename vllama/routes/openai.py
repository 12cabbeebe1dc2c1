"""OpenAI's chats, completions and models: handed through to the engine, which speaks OpenAI's protocol.

Loading, naming, defaults, limits and the errors about models are ours.
"""

import time
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import JSONResponse
from vllama.gateway import Gateway, modified
from vllama.models.model import Model
from vllama.models.names import InvalidName, parse
from vllama.routes._abilities import check_abilities
from vllama.routes._ask import load
from vllama.routes._conversation import converse
from vllama.routes._edge import find_model, gateway_of, get, quote
from vllama.routes._engine import Line
from vllama.routes._prompt import capped
from vllama.routes._reading import read_request
from vllama.routes._relay import Handover, hand_over
from vllama.translate.openai import chat_body, completion_body, read_chat
from vllama.translate.openai_reply import FINGERPRINT, NO_USAGE, ChatReply, Renamed, load_reply
from vllama.translate.request import COMPLETION_PATH, EngineRequest, Target
from vllama.wire.openai_requests import ChatRequest, CompletionRequest


async def list_models(request: Request) -> Response:
    gateway = gateway_of(request)
    return JSONResponse({"object": "list", "data": [_card(gateway, model) for model in await gateway.models()]})


async def get_model(request: Request) -> Response:
    wanted = request.path_params["model"]
    model = await find_model(request, wanted, unknown=_unknown_text(wanted))
    return JSONResponse(_card(gateway_of(request), model) | {"id": wanted})


def _unknown_text(wanted: str) -> str:
    try:
        return f"model '{parse(wanted).short}' not found"
    except InvalidName:
        return "model '{}' not found"


def _card(gateway: Gateway, model: Model) -> dict[str, Any]:
    return {
        "id": model.name.short,
        "object": "model",
        "created": int(modified(gateway.catalogue, model).timestamp()),
        "owned_by": model.name.namespace,
    }


async def chat(request: Request) -> Response:
    fields, body = await read_request(request, ChatRequest)
    asked = read_chat(fields, body)
    wanted = body.model or ""
    return await converse(request, wanted, asked, partial(chat_body, asked), ChatReply(wanted), action="chat")


async def completions(request: Request) -> Response:
    fields, body = await read_request(request, CompletionRequest)
    completion_body(fields, body, Target(), None)  # says what is wrong before a model is loaded
    wanted = body.model or ""
    model = await find_model(request, wanted)
    if model.lacks("completion"):
        raise ApiError(400, f"{quote(wanted)} does not support generate")
    check_abilities(model, {"insert"} if body.suffix else ())
    if not body.prompt and body.prompt_embeds is None:
        return await _load(request, model, body)

    async def engine_body(line: Line) -> dict[str, Any]:
        target = Target.of(line.lease.model)
        asked = completion_body(fields, body, target, line.lease.context_length)
        for prompt in _prompts(body.prompt) if asked.get("max_tokens") != 0 else ():
            counted = EngineRequest(COMPLETION_PATH, asked, target.num_ctx)
            asked = await capped(line, counted, asked | {"prompt": prompt})
        return asked

    reply = Renamed(wanted, system_fingerprint=FINGERPRINT)
    return await hand_over(request, Handover(model, wanted, request.scope["path"], engine_body, reply, "generate"))


def _prompts(prompt: Any) -> list[Any]:
    """Each text, or each list of tokens, of which a request may bring several."""
    if not prompt:
        return []
    return prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]


async def _load(request: Request, model: Model, body: CompletionRequest) -> Response:
    """An empty prompt loads the model, and the reply says so."""
    await load(request, model, None)
    reply = load_reply(body.model or "", int(time.time()))
    if not body.stream:
        return JSONResponse(reply | {"usage": NO_USAGE})
    events = [reply]
    if body.stream_options and body.stream_options.include_usage:
        events.append(reply | {"choices": [], "usage": NO_USAGE})
    data = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)
    return Response(data + b"data: [DONE]\n\n", media_type="text/event-stream")


routes = [
    Route("/v1/chat/completions", chat, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
    get("/v1/models", list_models),
    get("/v1/models/{model:path}", get_model),
]
