"""OpenAI's responses: handed through to the engine. Nothing is kept: a client sends the conversation so far."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.routes._abilities import check_chat
from vllama.routes._edge import find_model, get
from vllama.routes._relay import Handover, hand_over, read_request
from vllama.scheduler import Lease
from vllama.translate.responses import ResponseReply, read_response_request, response_body
from vllama.wire.openai_requests import ResponsesRequest


async def create(request: Request) -> Response:
    fields, body = await read_request(request, ResponsesRequest)
    asked = read_response_request(fields, body)
    wanted = body.model or ""
    if not wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(request, wanted)
    check_chat(model, wanted, asked.needs, think=asked.think)
    reply = ResponseReply(wanted)

    def engine_body(lease: Lease) -> dict[str, Any]:
        # More may be known of the model than before it was loaded.
        check_chat(lease.model, wanted, asked.needs, think=asked.think)
        thinks = not lease.model.lacks("thinking")
        return response_body(asked, lease.model.modelfile, thinks=thinks, context_length=lease.context_length)

    return await hand_over(
        request,
        Handover(
            model,
            wanted,
            request.url.path,
            engine_body,
            action="responses",
            rename=lambda data, _name: reply.whole(data),
            adapt=lambda block: reply.event(block.rpartition(b"data: ")[2]),
            failure=lambda _status, message: reply.failure(message),
        ),
    )


async def not_kept(request: Request) -> Response:
    raise ApiError(404, f"response '{request.path_params['id']}' not found: responses are not kept after their reply")


routes = [
    Route("/v1/responses", create, methods=["POST"]),
    get("/v1/responses/{id}", not_kept),
    Route("/v1/responses/{id}/cancel", not_kept, methods=["POST"]),
]
