"""The same question in each interface, of an answer that always has as many tokens as are allowed."""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks._measuring import ENDLESS
from vllama.bench.dialects import Dialect, Part, read_ollama

_FIXED: dict[str, Any] = {
    "stream": True, "temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True},
}  # fmt: skip


class _Delta(Struct):
    content: str | None = None
    reasoning: str | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    text: str = ""


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


def read_openai(line: bytes) -> Part:
    """A line of Server-Sent Events, or an error that is no stream."""
    data = line.removeprefix(b"data:").strip()
    if data == b"[DONE]":
        return Part(is_last=True)
    if not data.startswith(b"{"):
        return Part()
    event = _decode(data)
    usage = event.usage or _Usage()
    has_text = any(map(_has_text, event.choices))
    return Part(has_text, False, _message(event.error), usage.completion_tokens, usage.prompt_tokens)


def _has_text(choice: _Choice) -> bool:
    return bool(choice.text or (choice.delta and (choice.delta.content or choice.delta.reasoning)))


def _message(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error or "")


def _ollama(prompt: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "think": False, "options": {"temperature": 0, "num_predict": tokens}}


def _chat(prompt: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {**_FIXED, "messages": messages, "max_tokens": tokens, "chat_template_kwargs": {"enable_thinking": False}}


def _completion(prompt: str, tokens: int) -> dict[str, Any]:
    return {**_FIXED, "prompt": prompt, "max_tokens": tokens}


SONG: str = ENDLESS["messages"][0]["content"]  # type: ignore[index]
"""The demo model answers it without an end, which Ollama's interface has no word for."""
OLLAMA = Dialect("/api/chat", _ollama, read_ollama)
CHAT = Dialect("/v1/chat/completions", _chat, read_openai)
COMPLETIONS = Dialect("/v1/completions", _completion, read_openai)


def maker(dialect: Dialect, model: str, more: dict[str, Any]) -> Callable[[int], bytes]:
    """Of the bodies of requests."""

    def make(tokens: int) -> bytes:
        return msgspec.json.encode({"model": model, **dialect.body(SONG, tokens), **more})

    return make
