"""What the lines of a streamed answer say, as far as it is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct


class Part(NamedTuple):
    """Of one line. tokens, prompt_tokens: of the whole answer, where the line tells them. is_last: it is complete."""

    has_text: bool = False
    is_last: bool = False
    error: str = ""
    tokens: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Dialect:
    """An interface. read: a line; raises msgspec.DecodeError for one that makes no sense. body: a request's, without
    the model, for a prompt and a number of tokens.
    """

    path: str
    body: Callable[[str, int], dict[str, Any]]
    read: Callable[[bytes], Part]


class _Message(Struct):
    content: str = ""
    thinking: str = ""


class _Line(Struct):
    message: _Message | None = None
    response: str = ""
    thinking: str = ""
    done: bool = False
    error: str = ""
    eval_count: int = 0
    prompt_eval_count: int = 0


_decode = msgspec.json.Decoder(_Line).decode


def read_ollama(line: bytes) -> Part:
    found = _decode(line)
    message = found.message
    has_text = bool(found.response or found.thinking or (message and (message.content or message.thinking)))
    return Part(has_text, found.done, found.error, found.eval_count, found.prompt_eval_count)


def _chat(prompt: str, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "options": {"num_predict": tokens}}


def _generate(prompt: str, tokens: int) -> dict[str, Any]:
    return {"prompt": prompt, "options": {"num_predict": tokens}}


CHAT = Dialect("/api/chat", _chat, read_ollama)
GENERATE = Dialect("/api/generate", _generate, read_ollama)
