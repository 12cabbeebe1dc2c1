"""The messages of an OpenAI chat: checked as Ollama checks them, and made into what the engine reads."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from vllama.errors import ApiError

Object = dict[str, Any]

_ENGINE_PARTS = {
    "video_url": "vision",
    "image_embeds": "vision",
    "audio_url": "audio",
    "audio_embeds": "audio",
    "input_text": "",
    "output_text": "",
    "prompt_embeds": "",
    "refusal": "",
    "thinking": "",
}
"""Parts that Ollama does not know and the engine does, and what a model must be able to do for them."""

_PARTS = _ENGINE_PARTS | {"text": "", "image_url": "vision", "input_image": "vision", "input_audio": "audio"}

_KINDS = {bool: "bool", int: "float64", float: "float64", str: "string", list: "[]interface {}", type(None): "<nil>"}


def kind(value: Any) -> str:
    """The name of a JSON value's type in Ollama's texts."""
    return _KINDS.get(type(value), "map[string]interface {}")


def joined(parts: Any) -> str:
    """The texts of an item's parts, which may be anything."""
    texts = (part.get("text") for part in parts if isinstance(part, dict)) if isinstance(parts, list) else ()
    return "".join(text for text in texts if isinstance(text, str))


def read_messages(messages: Sequence[Object]) -> list[Object]:
    """The messages as the engine wants them. Raises ApiError 400 for what Ollama refuses."""
    functions = {
        call["id"]: call["function"].get("name")
        for message in messages
        for call in _list(message.get("tool_calls"))
        if isinstance(call, dict) and isinstance(call.get("id"), str) and isinstance(call.get("function"), dict)
    }
    return [_message(message, f"messages[{index}]", functions) for index, message in enumerate(messages)]


def abilities(messages: Sequence[Object]) -> set[str]:
    """What a model must be able to do to take these messages' contents."""
    parts = (part for message in messages for part in _list(message.get("content")) if isinstance(part, dict))
    return {_PARTS.get(part.get("type", ""), "") for part in parts} - {""}


def check_image(url: str) -> None:
    """Raises ApiError 400 where an image is neither on the web nor in the URL itself."""
    if url.startswith(("http://", "https://")):
        return
    head, comma, data = url.partition(",")
    if not comma or not head.startswith(("data:image/", "data:;")) or not head.endswith(";base64"):
        raise ApiError(400, "invalid image input")
    try:
        _decode_base64(data)
    except ValueError:
        raise ApiError(400, "invalid image input") from None


def _message(message: Object, where: str, functions: Mapping[str, str | None]) -> Object:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ApiError(400, f"{where}.role: expected string")
    read = {name: value for name, value in message.items() if value is not None} | {"role": role.lower()}
    read["content"] = _content(message)
    if "tool_calls" in read:
        calls = read.pop("tool_calls")
        if not isinstance(calls, list):
            raise ApiError(400, f"{where}.tool_calls: expected array")
        if calls:
            read["tool_calls"] = [_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]
    answered = read.get("tool_call_id")
    if read["role"] == "tool" and not read.get("name") and isinstance(answered, str) and functions.get(answered):
        read["name"] = functions[answered]
    return read


def _content(message: Object) -> Any:
    content = message.get("content")
    if isinstance(content, list):
        return [_part(part) for part in content]
    if not isinstance(content, str) and not (content is None and message.get("tool_calls") is not None):
        raise ApiError(400, f"invalid message content type: {kind(content)}")
    return content


def _part(part: Any) -> Object:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str) or part["type"] not in _PARTS:
        raise ApiError(400, "invalid message format")
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise ApiError(400, "invalid message format")
    if part["type"] == "image_url":
        return _image(part)
    if part["type"] == "input_audio":
        _check_audio(part.get("input_audio"))
    return part


def _image(part: Object) -> Object:
    image = part.get("image_url")
    if isinstance(image, str):
        image = {"url": image}
    if not isinstance(image, dict) or not isinstance(image.get("url"), str):
        raise ApiError(400, "invalid message format")
    check_image(image["url"])
    return part | {"image_url": image}


def _check_audio(audio: Any) -> None:
    if not isinstance(audio, dict):
        raise ApiError(400, "invalid input_audio format")
    data = audio.get("data")
    if not isinstance(data, str) or not data:
        raise ApiError(400, "invalid input_audio format: missing data")
    try:
        _decode_base64(data)
    except ValueError as error:
        raise ApiError(400, f"invalid input_audio base64 data: {error}") from None


def _decode_base64(data: str) -> bytes:
    """Line breaks are no part of the data, as in Go's decoder."""
    return base64.b64decode(data.replace("\r", "").replace("\n", ""), validate=True)


def _call(call: Any, where: str) -> Object:
    if not isinstance(call, dict):
        raise ApiError(400, f"{where}: expected object")
    if call.get("type", "function") != "function":
        return call
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, f"{where}.function.name: expected string")
    arguments = call_arguments(function.get("arguments"))
    return {"id": where, "type": "function"} | call | {"function": function | {"arguments": arguments}}


def call_arguments(arguments: Any) -> str:
    """A call's arguments as JSON text, given as that or, which is as clear, as the object itself; `{}` for none.

    Raises ApiError 400 for anything else.
    """
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    if arguments is None or (isinstance(arguments, str) and arguments.strip() in ("", "null")):
        return "{}"
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, TypeError):
        raise ApiError(400, "invalid tool call arguments") from None
    return str(arguments)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
