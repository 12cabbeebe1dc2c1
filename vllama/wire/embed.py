"""Requests about texts, not conversations: embeddings, tokens and rankings; and what the engine replies to them.

Source: the wire behaviour of Ollama 0.33 for embeddings. Ollama has no tokens or rankings: the former follow what was
proposed for it, the latter Cohere's and Jina's form, which is also vLLM's. In a request `null` means absent.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

from vllama.wire.ollama import Message, Named, TokenId, Tool


class EmbedRequest(Named):
    """`input` and `keep_alive` are checked by their translators."""

    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class EmbeddingsRequest(Named):
    """The older form: one text."""

    prompt: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class OpenAIEmbeddingsRequest(Struct):
    model: str | None = None
    input: Any = None
    encoding_format: str | None = None
    dimensions: int | None = None


class EngineEmbedding(Struct):
    """`embedding` is base64 of single-precision floats, or a list from servers that know no `encoding_format`."""

    index: int
    embedding: bytes | list[float]


class EngineUsage(Struct):
    prompt_tokens: int = 0


class EngineEmbeddings(Struct):
    data: list[EngineEmbedding]
    usage: EngineUsage


class TokenizeRequest(Named):
    """One text under any of three names, or a conversation as /api/chat takes it."""

    content: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    think: Any = None
    add_special_tokens: bool | None = None
    keep_alive: Any = None


class DetokenizeRequest(Named):
    tokens: list[TokenId] | None = None
    keep_alive: Any = None


class EngineTokens(Struct):
    """token_strs: each token as the vocabulary writes it, where that was asked for."""

    count: int
    tokens: list[int]
    token_strs: list[str] | None = None


class EngineText(Struct):
    prompt: str


class RerankRequest(Named):
    """`query` and `documents` are texts, or objects: with `text`, or with vLLM's `content` for pictures."""

    query: Any = None
    documents: list[Any] | None = None
    top_n: Annotated[int, Meta(ge=0)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Meta(ge=0)] | None = None
    instruction: str | None = None
    keep_alive: Any = None


class ScoreRequest(Named):
    """Pairs to compare, under either of vLLM's two names for them; each one or a list."""

    text_1: Any = None
    text_2: Any = None
    queries: Any = None
    documents: Any = None
    instruction: str | None = None
    keep_alive: Any = None
