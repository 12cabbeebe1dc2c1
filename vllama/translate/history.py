"""How much of a conversation fits a context, and what is left out: the oldest messages go, as in Ollama."""

from collections.abc import Sequence
from typing import Any

import msgspec

from vllama.translate.messages import EngineMessage

IMAGE_TOKENS = 768
"""What Ollama reckons for an image before it has been looked at."""

_TEMPLATE_TOKENS = 1024
"""More than any known template adds to a conversation by itself."""


def most_tokens(body: dict[str, Any]) -> int:
    """A number of tokens that the prompt in `body` has at most, without a look into the vocabulary.

    A token stands for at least one byte, and a template adds less to a message than its JSON form does.
    """
    messages = body.get("messages", [])
    prompt = [without_media(messages), body.get("tools"), body.get("prompt")]
    return len(msgspec.json.encode(prompt)) + _TEMPLATE_TOKENS + media_count(messages) * IMAGE_TOKENS


def reply_room(limit: int, wanted: int | None) -> int:
    """Tokens that a shortened prompt leaves for the reply: a quarter of the context, or less where less is wanted.

    Ollama shortens to the whole context and, when that is full, forgets while it writes, which vLLM cannot.
    """
    return max(1, min(limit // 4, wanted or limit))


def shortened(messages: Sequence[EngineMessage], first: int) -> list[EngineMessage]:
    """The conversation from `first` on, behind the system messages before it."""
    return [message for message in messages[:first] if message["role"] == "system"] + list(messages[first:])


def media_count(messages: Sequence[EngineMessage]) -> int:
    """Images and recordings in the conversation."""
    parts = (part for message in messages if isinstance(message["content"], list) for part in message["content"])
    return sum(part["type"] != "text" for part in parts)


def without_media(messages: Sequence[EngineMessage]) -> list[EngineMessage]:
    """The conversation's text alone: for counting."""
    return [message | {"content": _text(message["content"])} for message in messages]


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    return "".join(part["text"] for part in content if part["type"] == "text")
