"""OpenAI's chats and responses on their way to the engine: the same checks before a model is loaded, and after."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from vllama.errors import ApiError
from vllama.routes._abilities import check_chat
from vllama.routes._edge import find_model
from vllama.routes._engine import Line
from vllama.routes._prompt import capped
from vllama.routes._relay import Handover, Reply, hand_over
from vllama.translate.openai import Chat
from vllama.translate.request import EngineRequest, Target
from vllama.translate.responses import Asked as ResponseAsked


class Body(Protocol):
    """What the engine is asked, once it is known which."""

    def __call__(self, target: Target, context_length: int | None) -> dict[str, Any]: ...


async def converse(
    request: Request,
    wanted: str,
    asked: Chat | ResponseAsked,
    body: Body,
    reply: Reply,
    *,
    action: str,
    cap: Callable[[Line, EngineRequest], Awaitable[dict[str, Any]]] = capped,
    failure: Callable[[int, str], bytes] | None = None,
) -> Response:
    """The model's part in a conversation. action, failure: as in `Handover`. Raises ApiError as `hand_over` does.

    cap: holds the body to the model's own `num_ctx`.
    """
    if not wanted.strip():
        raise ApiError(400, "model is required")
    model = await find_model(request, wanted)
    check_chat(model, wanted, asked.needs, think=asked.think)

    async def engine_body(line: Line) -> dict[str, Any]:
        lease = line.lease
        # More may be known of the model than before it was loaded.
        check_chat(lease.model, wanted, asked.needs, think=asked.think)
        target = Target.of(lease.model)
        return await cap(line, EngineRequest(request.scope["path"], body(target, lease.context_length), target.num_ctx))

    return await hand_over(
        request,
        Handover(
            model,
            wanted,
            request.scope["path"],
            engine_body,
            reply,
            action,
            failure,
        ),
    )
