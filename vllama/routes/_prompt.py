"""What has to be known of a prompt's tokens before the engine is asked: does it fit, what precedes it, how it reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from vllama.errors import ApiError
from vllama.scheduling.scheduler import Lease
from vllama.translate.failure import CONTEXT_EXCEEDED, failure_text
from vllama.translate.history import (
    IMAGE_TOKENS,
    media_count,
    most_tokens,
    reply_room,
    shortened,
    without_media,
)
from vllama.translate.messages import EngineMessage
from vllama.translate.request import CHAT_PATH, COMPLETION_PATH, RENDERED, EngineRequest
from vllama.wire.embed import EngineText, EngineTokens

T = TypeVar("T")

_CHAT_ONLY = (*RENDERED, "messages", "reasoning_effort", "thinking_token_budget", "top_logprobs", "tool_choice")
_BEGINNINGS = frozenset(
    {"<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "[gMASK]"}
)
"""Tokens that only a text begins with."""


class _NoTokenizerError(ApiError):
    """A server that somebody else runs, and that is no vLLM, tells no tokens."""


@dataclass(frozen=True)
class Prepared:
    """path, body: what the engine is asked. thinking_begun: the prompt itself opens the model's thinking.

    context: whether the prompt goes on from an earlier exchange; the engine then does not tell thinking from text.
    """

    path: str
    body: dict[str, Any]
    context: bool = False
    thinking_begun: bool = False


async def prepare(lease: Lease, asked: EngineRequest) -> Prepared:
    """The request as this engine can take it: cut to its context, or going on from an earlier one.

    Raises ApiError 400 where the prompt is too long and may not be, or cannot be, shortened.
    """
    if not asked.context:
        return Prepared(asked.path, await _fit(lease, asked))
    rendered = await _tokens(lease, asked, strings=True)
    strings = rendered.token_strs or []
    new = rendered.tokens[1:] if strings[:1] and strings[0] in _BEGINNINGS else rendered.tokens
    body = {name: value for name, value in asked.body.items() if name not in _CHAT_ONLY}
    if asked.body.get("logprobs") is True:
        body["logprobs"] = asked.body["top_logprobs"]
    following = EngineRequest(
        COMPLETION_PATH, body | {"prompt": [*asked.context, *new]}, num_ctx=asked.num_ctx, truncate=asked.truncate
    )
    return Prepared(
        COMPLETION_PATH, await _fit(lease, following), context=True, thinking_begun="<think>" in strings[-2:]
    )


async def render(lease: Lease, asked: EngineRequest) -> tuple[str, int]:
    """The prompt as the model sees it, and how many images go with it."""
    if asked.path == COMPLETION_PATH:
        return asked.body["prompt"], 0
    rendered = await _tokens(lease, asked)
    text = await _post(lease, "/detokenize", {"tokens": [*asked.context, *rendered.tokens]}, EngineText)
    return text.prompt, media_count(asked.body["messages"])


async def _fit(lease: Lease, asked: EngineRequest) -> dict[str, Any]:
    """The body with `max_tokens` set, and a prompt that leaves room for a reply.

    Where it is certain without counting that all fits, nothing is counted. vLLM itself lowers `max_tokens` to what the
    prompt leaves of its own context, though not to what it leaves of the client's `num_ctx`.
    """
    limit = min(length for length in (asked.num_ctx, lease.context_length, 2**31) if length)
    if limit == 2**31:
        return asked.body
    wanted = asked.body.get("max_tokens")
    capped = limit != lease.context_length
    room = reply_room(limit, wanted)
    at_most = most_tokens(asked.body)
    if at_most + room <= limit and not (capped and at_most + (wanted or limit) > limit):
        return asked.body | {"max_tokens": min(wanted or limit, limit)}
    try:
        body, count = await _shorten(lease, asked, limit, room)
    except _NoTokenizerError:
        return asked.body | {"max_tokens": min(wanted or limit, limit)}
    left = max(1, limit - count) if capped else limit
    return body | {"max_tokens": min(wanted or left, left)}


async def _shorten(lease: Lease, asked: EngineRequest, limit: int, room: int) -> tuple[dict[str, Any], int]:
    """The body with as much of the prompt as fits, and how many tokens that is."""
    body = asked.body
    count = await _count(lease, asked, body.get("messages"))
    if count > limit - room and asked.truncate:
        if asked.path == COMPLETION_PATH:
            count = min(count, limit - room)
            body = body | {"truncate_prompt_tokens": limit - room, "truncation_side": "left"}
        else:
            messages, count = await _without_oldest(lease, asked, limit - room)
            body = body | {"messages": messages}
    if count >= limit:
        raise ApiError(400, CONTEXT_EXCEEDED)
    return body, count


async def _without_oldest(lease: Lease, asked: EngineRequest, most: int) -> tuple[list[EngineMessage], int]:
    """The longest end of the conversation that has at most `most` tokens; its last message always stays."""
    messages: list[EngineMessage] = asked.body["messages"]
    counts: dict[int, int] = {}
    low, high = 0, len(messages) - 1
    while low < high:
        middle = (low + high) // 2
        counts[middle] = await _count(lease, asked, shortened(messages, middle))
        if counts[middle] <= most:
            high = middle
        else:
            low = middle + 1
    kept = shortened(messages, low)
    return kept, counts[low] if low in counts else await _count(lease, asked, kept)


async def _count(lease: Lease, asked: EngineRequest, messages: Sequence[EngineMessage] | None) -> int:
    rendered = await _tokens(lease, asked, messages)
    return rendered.count + media_count(messages or ()) * IMAGE_TOKENS


async def _tokens(
    lease: Lease, asked: EngineRequest, messages: Sequence[EngineMessage] | None = None, *, strings: bool = False
) -> EngineTokens:
    body: dict[str, Any] = {"return_token_strs": True} if strings else {}
    if asked.path == CHAT_PATH:
        body |= {name: asked.body[name] for name in RENDERED if name in asked.body}
        body["messages"] = without_media(messages if messages is not None else asked.body["messages"])
    elif isinstance(prompt := asked.body["prompt"], list):
        return EngineTokens(len(prompt), prompt)
    else:
        body["prompt"] = prompt
    return await _post(lease, "/tokenize", body, EngineTokens)


async def _post(lease: Lease, path: str, body: dict[str, Any], type_: type[T]) -> T:
    data = msgspec.json.encode(body | {"model": lease.model.engine_name})
    async with lease.client.request("POST", path, data) as response:
        answer = await response.read()
        if response.status in (404, 405):
            raise _NoTokenizerError(
                400, f"the engine has no {path}, which context and _debug_render_only need: leave them out"
            )
        if response.status != 200:
            raise ApiError(*failure_text(response.status, answer))
        return msgspec.json.decode(answer, type=type_)
