"""Ollama's conversations as OpenAI's: roles, images, tool calls and their results."""

import base64
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from vllama.errors import ApiError
from vllama.wire.ollama import Message, Tool, ToolCall

EngineMessage = dict[str, Any]

_IMAGES = ((b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"\xff\xd8\xff", "image/jpeg"), (b"BM", "image/bmp"))
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/\r\n]")


class _Unanswered:
    """Calls that no result has followed yet, in the order in which they were made."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._ids: deque[str] = deque()
        self._ids_of: defaultdict[str, deque[str]] = defaultdict(deque)

    def add(self, identifier: str, function: str) -> None:
        self._open.add(identifier)
        self._ids.append(identifier)
        self._ids_of[function].append(identifier)

    def answered_by(self, result: Message) -> str:
        """The id of the call that a tool's result answers.

        A result names its call by id, or by function as older Ollama clients do (then results come in the calls'
        order), or not at all.
        """
        if result.tool_call_id:
            self._open.discard(result.tool_call_id)
            return result.tool_call_id
        waiting = self._ids_of[result.tool_name] if result.tool_name else self._ids
        while waiting:
            if (identifier := waiting.popleft()) in self._open:  # not answered under its other name
                self._open.discard(identifier)
                return identifier
        return "call_unknown"


def engine_messages(messages: Sequence[Message]) -> list[EngineMessage]:
    """The conversation for vLLM's chat route. Raises ApiError 400 for a call whose arguments are no object."""
    unanswered = _Unanswered()
    translated: list[EngineMessage] = []
    for message in messages:
        role = message.role.lower()
        entry: EngineMessage = {"role": role, "content": _content(message)}
        if role == "assistant" and message.thinking:
            entry["reasoning"] = message.thinking
        if message.tool_calls:
            entry["tool_calls"] = _calls(message.tool_calls, unanswered, first=len(translated))
        if role == "tool":
            entry["tool_call_id"] = unanswered.answered_by(message)
        translated.append(entry)
    return translated


def engine_tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.description:
        function["description"] = tool.function.description
    if tool.function.parameters is not None:
        function["parameters"] = tool.function.parameters
    return {"type": "function", "function": function}


def check_images(images: Iterable[str]) -> None:
    """Raises ApiError 400, naming the first byte that is not base64 as Go's decoder does."""
    for image in images:
        try:
            base64.b64decode(_joined(image), validate=True)
        except ValueError:
            raise ApiError(
                400,
                f"illegal base64 data at input byte {_first_illegal(image)}: "
                "images are base64 data without a data: prefix",
            ) from None


def media_abilities(images: Iterable[str]) -> set[str]:
    """What a model must be able to do to take these."""
    return {"audio" if _audio_format(_head(image)) else "vision" for image in images}


def _joined(image: str) -> str:
    """Without line breaks, which are no part of the data in Go's decoder."""
    return image.replace("\r", "").replace("\n", "")


def _first_illegal(image: str) -> int:
    """Where the first byte that is no base64 stands; behind the end, where only the padding is wrong."""
    bad = _NO_BASE64.search(image)
    return bad.start() if bad else len(image)


def _content(message: Message) -> str | list[dict[str, Any]]:
    text = message.content or ""
    if not message.images:
        return text
    media = [_part(_joined(image)) for image in message.images]
    return [{"type": "text", "text": text}, *media] if text else media


def _part(data: str) -> dict[str, Any]:
    """Ollama sends sound in `images`, too: which it is, the first bytes tell."""
    head = _head(data)
    if kind := _audio_format(head):
        return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}
    return {"type": "image_url", "image_url": {"url": f"data:{_image_type(head)};base64,{data}"}}


def _head(data: str) -> bytes:
    return base64.b64decode(_joined(data[:64])[:32])


def _audio_format(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    return "mp3" if head[:3] == b"ID3" or head[:2] in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2") else None


def _image_type(head: bytes) -> str:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _IMAGES if head.startswith(magic)), "image/jpeg")


def _calls(calls: Sequence[ToolCall], unanswered: _Unanswered, *, first: int) -> list[dict[str, Any]]:
    entries = []
    for index, call in enumerate(calls):
        identifier = call.id or f"call_{first}_{index}"
        unanswered.add(identifier, call.function.name)
        arguments = msgspec.json.encode(_arguments(call)).decode()
        function = {"name": call.function.name, "arguments": arguments}
        entries.append({"id": identifier, "type": "function", "function": function})
    return entries


def _arguments(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call that a client sends back; as text, which OpenAI's clients are used to, they are read."""
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            return msgspec.json.decode(arguments, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            name = msgspec.json.encode(call.function.name).decode()
            raise ApiError(400, f"the arguments of a call of {name} are no JSON object") from None
    return arguments
