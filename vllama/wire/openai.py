"""What the gateway reads of an OpenAI-compatible engine's replies. Fields it does not need are not decoded.

Source: vLLM 0.32's protocol modules; `reasoning_content` is what other servers, and vLLM before 0.12,
call `reasoning`.
"""

from typing import Any

from msgspec import Struct


class FunctionCall(Struct):
    """In a stream `name` comes with the first part of a call and `arguments` in fragments of JSON text."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(Struct):
    function: FunctionCall
    index: int | None = None
    id: str | None = None


class Message(Struct):
    """A whole message, or what a streamed chunk adds to it."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = []


class Logprobs(Struct):
    """`content` in a chat's reply; in a completion's, lists of which each has an entry for a token."""

    content: list[TokenLogprob] | None = None
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(Struct):
    """`message` in a whole chat reply, `delta` in a chat chunk, `text` in both forms of a completion.

    The token ids come where `return_token_ids` asked for them; those of a completion's prompt come here, too.
    """

    message: Message | None = None
    stop_reason: int | str | None = None
    delta: Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None


class Timings(Struct):
    """Milliseconds, from `--enable-per-request-metrics`. The time to the first token includes the time in the queue."""

    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None
    queue_time_ms: float | None = None


class Completion(Struct):
    """A whole reply or one chunk of a stream. The last chunk has `usage` and no choices."""

    choices: list[Choice] = []
    prompt_token_ids: list[int] | None = None
    usage: Usage | None = None
    metrics: Timings | None = None
    error: Any = None


class ModelCard(Struct):
    id: str
    max_model_len: int | None = None


class ModelList(Struct):
    data: list[ModelCard]
