"""/v1/systemone: typed decisions about a state of affairs, which Ollama's own clients ask for and vLLM makes."""

from typing import Any

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import JSONResponse
from vllama.routes._ask import Question, ask, checked_keep_alive
from vllama.routes._edge import find_model, quote, read_body
from vllama.wire.ollama import DecisionRequest


async def decide(request: Request) -> Response:
    body = await read_body(request, DecisionRequest)
    keep_alive = checked_keep_alive(body.keep_alive)
    if not body.wanted.strip():
        raise ApiError(400, "model is required")
    if body.state is None or not body.questions:
        raise ApiError(400, "state is required" if body.state is None else "questions is required")
    model = await find_model(request, body.wanted)
    if model.lacks("completion"):
        raise ApiError(400, f"{quote(body.wanted)} does not support decisions")
    asked: dict[str, Any] = {"state": body.state, "questions": body.questions}
    question = Question(model, body.wanted, "/v1/systemone", asked, "decisions", keep_alive)
    reply, _ = await ask(request, question, dict[str, Raw])
    return JSONResponse(reply | {"model": Raw(msgspec.json.encode(body.wanted))})


routes = [Route("/v1/systemone", decide, methods=["POST"])]
