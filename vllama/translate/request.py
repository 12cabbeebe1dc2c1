"""Ollama's generate and chat requests into bodies for the engine's OpenAI routes."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama.errors import ApiError
from vllama.translate.options import check_options, sampling_parameters
from vllama.wire.ollama import ChatRequest, GenerateRequest, Inference, Message, Tool, ToolCall

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"

_LEVELS = ("low", "medium", "high", "max")


@dataclass(frozen=True)
class EngineRequest:
    """path: the engine's route. body: its JSON object, without `model`."""

    path: str
    body: dict[str, Any]


def chat_request(request: ChatRequest, *, templated: bool, thinks: bool) -> EngineRequest:
    """What the engine is asked for a chat.

    templated: the model has a chat template. Without one Ollama's default template is followed: the contents of the
    messages one after another, nothing added. thinks: the model can think.
    Raises ApiError for values that Ollama refuses.
    """
    messages = request.messages or []
    common = _common(request)
    if not templated:
        return EngineRequest(
            COMPLETION_PATH, common | {"prompt": "".join(message.content or "" for message in messages)}
        )
    body = common | {"messages": _messages(messages)} | _thinking(request.think, thinks)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    return EngineRequest(CHAT_PATH, body)


def generate_request(request: GenerateRequest, *, templated: bool, thinks: bool) -> EngineRequest:
    """What the engine is asked for a generate: a chat of one user message, or the bare prompt.

    The prompt goes out bare for `raw`, and for a model without a chat template (behind its `system`, as Ollama's
    default template has it). Raises ApiError for values that Ollama refuses.
    """
    prompt, system = request.prompt or "", request.system or ""
    common = _common(request)
    if request.raw or not templated:
        return EngineRequest(COMPLETION_PATH, common | {"prompt": prompt if request.raw else system + prompt})
    messages = [Message(role="user", content=prompt, images=request.images)]
    if system:
        messages.insert(0, Message(role="system", content=system))
    return EngineRequest(CHAT_PATH, common | {"messages": _messages(messages)} | _thinking(request.think, thinks))


def check_think(value: Any) -> bool | str | None:
    """The value of `think`, None where it is absent. Raises ApiError 400 in Ollama's words."""
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ApiError(400, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)')
    if value not in _LEVELS:
        shown = _json(value)
        raise ApiError(400, f'invalid think value: {shown} (must be "high", "medium", "low", "max", true, or false)')
    return value


def _common(request: Inference) -> dict[str, Any]:
    body = sampling_parameters(check_options(request.options or {})) | _response_format(request.format)
    # Anything but an explicit false streams.
    if request.stream is not False:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _response_format(value: Any) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if value == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(value, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": value}}}
    raise ApiError(500, f'invalid format: {_json(_json(value))}; expected "json" or a valid JSON Schema object')


def _thinking(value: Any, thinks: bool) -> dict[str, Any]:
    """Thinking is on where the model can think and the request does not say otherwise."""
    think = check_think(value)
    if not thinks:
        return {}
    enabled = think is not False
    # Templates differ in the variable's name; an unknown one is not read.
    fields: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": enabled, "thinking": enabled}}
    if isinstance(think, str):
        fields["reasoning_effort"] = think
    return fields


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    unanswered: list[tuple[str, str]] = []  # (id, function) of calls that no result has followed yet
    translated: list[dict[str, Any]] = []
    for message in messages:
        role = message.role.lower()
        entry: dict[str, Any] = {"role": role, "content": _content(message)}
        if role == "assistant" and message.thinking:
            entry["reasoning"] = message.thinking
        if message.tool_calls:
            entry["tool_calls"] = _calls(message.tool_calls, unanswered, first=len(translated))
        if role == "tool":
            entry["tool_call_id"] = _answered_call(message, unanswered)
        translated.append(entry)
    return translated


def _content(message: Message) -> str | list[dict[str, Any]]:
    text = message.content or ""
    if not message.images:
        return text
    images = [{"type": "image_url", "image_url": {"url": _data_uri(image)}} for image in message.images]
    return [{"type": "text", "text": text}, *images] if text else images


def _data_uri(image: str) -> str:
    text = image.replace("\r", "").replace("\n", "")  # line breaks are no part of the data, as in Go's decoder
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise ApiError(400, "images must be base64 data without a data: prefix: illegal base64 data") from None
    return f"data:{_mime_type(data)};base64,{text}"


def _mime_type(data: bytes) -> str:
    for magic, kind in ((b"\x89PNG", "image/png"), (b"GIF8", "image/gif")):
        if data.startswith(magic):
            return kind
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "image/jpeg"


def _calls(calls: Sequence[ToolCall], unanswered: list[tuple[str, str]], *, first: int) -> list[dict[str, Any]]:
    entries = []
    for index, call in enumerate(calls):
        identifier = call.id or f"call_{first}_{index}"
        unanswered.append((identifier, call.function.name))
        function = {"name": call.function.name, "arguments": _json(_arguments(call))}
        entries.append({"id": identifier, "type": "function", "function": function})
    return entries


def _arguments(call: ToolCall) -> dict[str, Any]:
    """The arguments of a call that a client sends back; as text, which OpenAI's clients are used to, they are read."""
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            return msgspec.json.decode(arguments, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            raise ApiError(400, f"the arguments of a call of {_json(call.function.name)} are no JSON object") from None
    return arguments


def _answered_call(message: Message, unanswered: list[tuple[str, str]]) -> str:
    """The id of the call that a tool's result answers.

    A result names its call by id, or by function as older Ollama clients do (then results come in the calls' order),
    or not at all.
    """
    for identifier, function in unanswered:
        if message.tool_call_id == identifier or (
            not message.tool_call_id and message.tool_name in (None, "", function)
        ):
            unanswered.remove((identifier, function))
            return identifier
    return message.tool_call_id or "call_unknown"


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.function.name}
    if tool.function.description:
        function["description"] = tool.function.description
    if tool.function.parameters is not None:
        function["parameters"] = tool.function.parameters
    return {"type": tool.type or "function", "function": function}


def fit_context(body: dict[str, Any], context_length: int | None) -> dict[str, Any]:
    """The body with `max_tokens` set to what was asked for, at most the context length, which stands for "no limit".

    Ollama takes any `num_predict`; vLLM refuses more than the context length, and its /v1/completions stops after 16
    tokens where nothing is said. What the prompt leaves of the context is the engine's to count.
    """
    if context_length is None:
        return body
    return body | {"max_tokens": min(body.get("max_tokens", context_length), context_length)}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
