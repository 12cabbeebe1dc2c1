"""OpenAI's responses: handed through to the engine. Nothing is kept: a client sends the conversation so far."""

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.routes._conversation import converse
from vllama.routes._edge import get
from vllama.routes._engine import Line
from vllama.routes._prompt import capped
from vllama.routes._reading import read_request
from vllama.translate.request import EngineRequest
from vllama.translate.response_prompt import chat_prompt
from vllama.translate.response_reply import ResponseReply
from vllama.translate.responses import read_response_request, response_body
from vllama.wire.openai_requests import ResponsesRequest


async def create(request: Request) -> Response:
    fields, body = await read_request(request, ResponsesRequest)
    asked = read_response_request(fields, body)
    reply = ResponseReply(body.model or "")

    def failure(_status: int, message: str) -> bytes:
        return reply.failure(message)

    return await converse(
        request, body.model or "", asked, partial(response_body, asked), reply,
        action="responses", cap=_capped, failure=failure,
    )  # fmt: skip


async def _capped(line: Line, asked: EngineRequest) -> dict[str, Any]:
    """As `capped`: the engine counts the tokens of chats only."""
    body = await capped(line, asked, chat_prompt(asked.body))
    limit = body.pop("max_tokens", None)
    return body if limit is None else body | {"max_output_tokens": limit}


async def not_kept(request: Request) -> Response:
    raise ApiError(404, f"response '{request.path_params['id']}' not found: responses are not kept after their reply")


routes = [
    Route("/v1/responses", create, methods=["POST"]),
    get("/v1/responses/{id}", not_kept),
    Route("/v1/responses/{id}/cancel", not_kept, methods=["POST"]),
]
