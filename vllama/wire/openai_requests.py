"""What the gateway reads of OpenAI's requests. All other members go to the engine as they came; `null` means absent."""

from typing import Any

from msgspec import Struct


class Reasoning(Struct):
    effort: str | None = None


class Sampled(Struct):
    """What the three requests for text share. `stop` is checked by its translator."""

    model: str | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: Any = None


class ChatRequest(Sampled):
    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class StreamOptions(Struct):
    include_usage: bool | None = None


class CompletionRequest(Sampled):
    """`prompt` is a text, tokens, or a list of either."""

    prompt: str | list[Any] | None = None
    prompt_embeds: Any = None
    suffix: str | None = None
    max_tokens: int | None = None
    echo: bool | None = None
    stream_options: StreamOptions | None = None


class ResponsesRequest(Sampled):
    """`input` is checked by its translator."""

    input: Any = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    include: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
