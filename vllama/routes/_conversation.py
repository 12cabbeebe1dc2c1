"""OpenAI's chats and responses on their way to the engine: the same checks before a model is loaded, and after."""

from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from vllama.errors import ApiError
from vllama.models.modelfile import Modelfile
from vllama.routes._abilities import check_chat
from vllama.routes._edge import find_model
from vllama.routes._relay import Handover, hand_over
from vllama.scheduling.scheduler import Lease
from vllama.translate.openai import Chat, ChatReply
from vllama.translate.responses import Asked as ResponseAsked
from vllama.translate.responses import ResponseReply


class Body(Protocol):
    """What the engine is asked, once it is known which."""

    def __call__(self, modelfile: Modelfile, *, thinks: bool, context_length: int | None) -> dict[str, Any]: ...


async def converse(
    request: Request,
    wanted: str,
    asked: Chat | ResponseAsked,
    body: Body,
    reply: ChatReply | ResponseReply,
    *,
    action: str,
    failure: Callable[[int, str], bytes] | None = None,
) -> Response:
    """The model's part in a conversation. action, failure: as in `Handover`. Raises ApiError as `hand_over` does."""
    if not wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(request, wanted)
    check_chat(model, wanted, asked.needs, think=asked.think)

    def engine_body(lease: Lease) -> dict[str, Any]:
        # More may be known of the model than before it was loaded.
        check_chat(lease.model, wanted, asked.needs, think=asked.think)
        thinks = not lease.model.lacks("thinking")
        return body(lease.model.modelfile, thinks=thinks, context_length=lease.context_length)

    return await hand_over(
        request,
        Handover(
            model,
            wanted,
            request.url.path,
            engine_body,
            action=action,
            rename=lambda data, _name: reply.whole(data),
            adapt=lambda block: reply.event(block.rpartition(b"data: ")[2]),
            failure=failure,
        ),
    )
