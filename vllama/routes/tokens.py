"""Texts into a model's tokens and back: /api/tokenize and /api/detokenize, and vLLM's own /tokenize and /detokenize."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import JSONResponse
from vllama.models.model import Model
from vllama.routes._ask import Question, ask, checked_keep_alive, durations
from vllama.routes._edge import find_model
from vllama.routes._engine import Line
from vllama.routes._reading import NULL, Fields, read_body, read_fields, text_field
from vllama.routes._relay import Handover, hand_over
from vllama.translate.openai_reply import Renamed
from vllama.translate.request import RENDERED, Target, chat_request
from vllama.wire.embed import DetokenizeRequest, EngineText, EngineTokens, TokenizeRequest
from vllama.wire.ollama import ChatRequest

_ACTION = "tokenizing"
_PROMPT_FIELDS = ("prompt", "messages", *RENDERED)


async def tokenize(request: Request) -> Response:
    arrived = time.monotonic_ns()
    body = await read_body(request, TokenizeRequest)
    keep_alive = checked_keep_alive(body.keep_alive)
    model = await find_model(request, body.wanted)
    asked = {**_prompt(body, model), "add_special_tokens": bool(body.add_special_tokens)}
    question = Question(model, body.wanted, "/tokenize", asked, _ACTION, keep_alive)
    reply, loaded = await ask(request, question, EngineTokens)
    tokens = {"tokens": reply.tokens, "count": reply.count}
    return JSONResponse({"model": body.wanted, **tokens, **durations(arrived, loaded)})


async def detokenize(request: Request) -> Response:
    arrived = time.monotonic_ns()
    body = await read_body(request, DetokenizeRequest)
    keep_alive = checked_keep_alive(body.keep_alive)
    model = await find_model(request, body.wanted)
    if body.tokens is None:
        raise ApiError(400, "tokens is required")
    question = Question(model, body.wanted, "/detokenize", {"tokens": body.tokens}, _ACTION, keep_alive)
    reply, loaded = await ask(request, question, EngineText)
    return JSONResponse({"model": body.wanted, "content": reply.prompt, **durations(arrived, loaded)})


def _prompt(body: TokenizeRequest, model: Model) -> dict[str, Any]:
    """The text, or the conversation as /api/chat would put it to the engine."""
    given = [text for text in (body.content, body.prompt, body.text, body.messages or None) if text is not None]
    if len(given) != 1:
        raise ApiError(400, "one of content, prompt, text or messages is required" + (", not more" if given else ""))
    if not body.messages:
        return {"prompt": given[0]}
    chat = ChatRequest(messages=body.messages, tools=body.tools, think=body.think)
    asked = chat_request(chat, Target.of(model)).body
    return {name: asked[name] for name in _PROMPT_FIELDS if name in asked}


async def hand_through(request: Request) -> Response:
    body = await read_fields(request)
    wanted = text_field(body, "model")
    model = await find_model(request, wanted)

    async def engine_body(line: Line) -> Fields:
        """A conversation is counted as it is put to the model: under the template of its Modelfile."""
        template = Target.of(line.lease.model).template if "messages" in body else {}
        return template | {name: value for name, value in body.items() if name not in template or value != NULL}

    return await hand_over(
        request, Handover(model, wanted, request.scope["path"], engine_body, Renamed(wanted), _ACTION)
    )


routes = [
    Route("/api/tokenize", tokenize, methods=["POST"]),
    Route("/api/detokenize", detokenize, methods=["POST"]),
    Route("/tokenize", hand_through, methods=["POST"]),
    Route("/detokenize", hand_through, methods=["POST"]),
]
