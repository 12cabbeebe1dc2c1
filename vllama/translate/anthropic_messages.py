"""Anthropic's conversations as OpenAI's: blocks, system texts, tool calls and their results."""

import base64
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec

from vllama.errors import ApiError
from vllama.wire.anthropic import Block, Content, Message

EngineMessage = dict[str, Any]
Part = dict[str, Any]

_ROLES = ("user", "assistant", "system")
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_BILLING = "x-anthropic-billing-header"
"""Begins a system text that Claude Code sends for Anthropic alone. It differs from request to request, so that no
prompt would begin like the one before and none be found in the engine's cache."""
_BETWEEN_TURNS: Part = {"type": "text", "text": "\n\n"}


def read_conversation(system: Content, messages: Sequence[Message]) -> list[EngineMessage]:
    """The conversation for vLLM's chat route. Raises ApiError 400 for blocks that Ollama refuses.

    Many chat templates refuse a system message that is not the first, and turns that do not alternate. So system texts
    at the beginning become one, later ones are the user's, and the user's turns that follow one another are one turn,
    as they are to Anthropic.
    """
    roles = [_role(message, index) for index, message in enumerate(messages)]
    begun = next((index for index, role in enumerate(roles) if role != "system"), len(roles))
    texts = [_system_text(content) for content in (system, *(message.content for message in messages[:begun]))]
    conversation: list[EngineMessage] = []
    if text := "\n\n".join(filter(None, texts)):
        conversation.append({"role": "system", "content": text})
    for role, message in zip(roles[begun:], messages[begun:], strict=True):
        blocks = _blocks(message.content)
        if role == "assistant":
            conversation.append(_assistant_turn(blocks))
        else:
            _add_user_turn(conversation, blocks)
    return [message | {"content": _joined(message["content"])} for message in conversation]


def has_images(conversation: Iterable[EngineMessage]) -> bool:
    return any(
        part["type"] == "image_url"
        for message in conversation
        if isinstance(message["content"], list)
        for part in message["content"]
    )


def _role(message: Message, index: int) -> str:
    role = message.role.lower()
    if role not in _ROLES:
        raise ApiError(400, f'messages[{index}].role: expected "user", "assistant" or "system"')
    return role


def _blocks(content: Content) -> list[Block]:
    return [Block("text", text=content)] if isinstance(content, str) else content or []


def _system_text(content: Content) -> str:
    texts = [block.text or "" for block in _blocks(content) if block.type == "text"]
    return "".join(text for text in texts if not text.startswith(_BILLING))


def _add_user_turn(conversation: list[EngineMessage], blocks: Sequence[Block]) -> None:
    """Results of tools come first, and are messages of their own; their images are the user's."""
    results = [block for block in blocks if block.type == "tool_result"]
    shown: list[Part] = []
    for block in results:
        parts = [part for item in _result_blocks(block) for part in _parts(item)]
        shown += [part for part in parts if part["type"] != "text"]
        conversation.append({"role": "tool", "tool_call_id": block.tool_use_id or "", "content": _result(block, parts)})
    parts = [*shown, *(part for block in blocks for part in _parts(block))]
    last = conversation[-1] if conversation else None
    if last is not None and last["role"] == "user":
        last["content"] += [_BETWEEN_TURNS, *parts]
    elif parts or not results:
        conversation.append({"role": "user", "content": parts})


def _result_blocks(block: Block) -> list[Block]:
    try:
        return _blocks(msgspec.convert(block.content, Content))
    except msgspec.ValidationError:
        raise ApiError(400, "tool_result block: content must be a string or a list of blocks") from None


def _result(block: Block, parts: Iterable[Part]) -> str:
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    # To the model a failure is what the text calls one: no chat template has a mark for it.
    return f"Error: {text}" if block.is_error and "error" not in text.lower() else text


def _assistant_turn(blocks: Sequence[Block]) -> EngineMessage:
    message: EngineMessage = {"role": "assistant", "content": [part for block in blocks for part in _parts(block)]}
    if thinking := "".join(block.thinking or "" for block in blocks if block.type == "thinking"):
        message["reasoning"] = thinking
    if calls := [_call(block) for block in blocks if block.type == "tool_use"]:
        message["tool_calls"] = calls
    return message


def _call(block: Block) -> dict[str, Any]:
    for field in ("id", "name"):
        if not getattr(block, field):
            raise ApiError(400, f"tool_use block missing required '{field}' field")
    arguments = msgspec.json.encode(block.input or {}).decode()
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _parts(block: Block) -> list[Part]:
    """What a model can be shown of a block: texts, images, and documents that are plain text."""
    match block.type, block.source:
        case "text", _:
            return [{"type": "text", "text": block.text or ""}]
        case "image", source:
            return [_image(source)]
        case "document", {"type": "text", "data": str(text)}:
            return [{"type": "text", "text": text}]
    return []


def _image(source: Any) -> Part:
    if not isinstance(source, dict):
        raise ApiError(400, "invalid image source")
    if (kind := source.get("type") or "") != "base64":
        raise ApiError(400, f"invalid image source type: {kind}. Only base64 images are supported.")
    try:
        data = source["data"].replace("\r", "").replace("\n", "")  # line breaks are no part of the data in Go's decoder
        base64.b64decode(data, validate=True)
    except (KeyError, AttributeError):
        raise ApiError(400, "invalid image source: data must be a string") from None
    except ValueError as error:
        raise ApiError(400, f"invalid base64 image data: {error}") from None
    media_type = source.get("media_type")
    shown = media_type if media_type in _IMAGE_TYPES else _IMAGE_TYPES[0]
    return {"type": "image_url", "image_url": {"url": f"data:{shown};base64,{data}"}}


def _joined(content: str | list[Part]) -> str | list[Part]:
    """A text where there are only texts; else the parts, with texts that follow one another joined."""
    if isinstance(content, str):
        return content
    joined: list[Part] = []
    for kind, parts in groupby(content, key=lambda part: part["type"]):
        same = list(parts)
        joined += [{"type": "text", "text": "".join(part["text"] for part in same)}] if kind == "text" else same
    if not joined:
        return ""
    return joined[0]["text"] if len(joined) == 1 and joined[0]["type"] == "text" else joined
