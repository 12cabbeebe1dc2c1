"""OpenAI's requests for responses, checked and completed as Ollama does.

Thinking that a client sends back, in whichever member of a reasoning item, is given to the model again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from vllama.errors import ApiError
from vllama.translate.openai import Think, complete, read_effort, read_options, with_modelfile
from vllama.translate.openai_messages import Object, call_arguments, check_image, joined, kind
from vllama.translate.request import Target
from vllama.wire.openai_requests import ResponsesRequest

_DEFAULTS = {"temperature": 1.0}
"""OpenAI's, which Ollama puts above a Modelfile's parameters."""

_ENGINE_ITEMS = ("custom_tool_call", "custom_tool_call_output")
_TEXTS = ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text")
_INCLUDED = ("message.output_text.logprobs",)

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Asked:
    """A request that is fit for the engine but for what depends on the model.

    members: of the client's body, by name. options: by Ollama's names. needs: capabilities.
    """

    members: Mapping[str, Any]
    items: Sequence[Object]
    instructions: str
    options: Mapping[str, Any]
    reasoning: Object
    think: Think
    needs: frozenset[str]
    template_variables: Mapping[str, Any]


def read_response_request(members: Mapping[str, Any], request: ResponsesRequest) -> Asked:
    """members, request: the same body, undecoded and decoded. Raises ApiError 400 for what cannot be asked."""
    for name in ("previous_response_id", "conversation"):
        if name in members:
            raise ApiError(
                400, f"{name}: responses are not kept after their reply: send the whole conversation as input"
            )
    items = _read_input(request.input)
    effort = (request.reasoning or {}).get("effort")
    if not isinstance(effort, str | None):
        raise ApiError(400, "reasoning.effort: expected string")
    # In the background, and remembered, is what no Ollama does: the answer comes at once, and whole.
    dropped = {"background", "include", "max_output_tokens", "reasoning"}
    if not request.tools:
        dropped |= {"tools", "tool_choice", "parallel_tool_calls"}
    kept = {name: value for name, value in members.items() if name not in dropped}
    if included := [name for name in request.include or () if name in _INCLUDED]:
        kept["include"] = included
    if request.tools:
        kept["tools"] = [_read_tool(tool) for tool in request.tools]
    return Asked(
        members=kept | _named_format(request.text),
        items=items,
        instructions=request.instructions or "",
        options=read_options(request, request.max_output_tokens),
        reasoning=request.reasoning or {},
        think=read_effort(effort),
        needs=frozenset(({"vision"} if _show_images(items) else set()) | ({"tools"} if request.tools else set())),
        template_variables=_given(request.chat_template_kwargs),
    )


def response_body(asked: Asked, target: Target, context_length: int | None) -> Object:
    """What the engine is asked, without `model`. A model that can think does unless the client objects."""
    body = complete(asked.members, {**target.parameters, **_DEFAULTS, **asked.options}, context_length)
    if "max_tokens" in body:
        body["max_output_tokens"] = body.pop("max_tokens")
    # Instructions are a system text before all items.
    modelfile = replace(target.modelfile, system="") if asked.instructions else target.modelfile
    body["input"] = with_modelfile(modelfile, asked.items)
    # The engine takes a chat template among its variables alone here.
    if variables := target.variables(thinking=asked.think is not False) | target.template:
        body["chat_template_kwargs"] = {**variables, **asked.template_variables}
    if target.thinks and asked.think is not None:
        body["reasoning"] = asked.reasoning | {"effort": asked.think or "none"}
    return body


def _given(variables: Object | None) -> Object:
    return {name: value for name, value in (variables or {}).items() if value is not None}


def _read_input(value: Any) -> list[Object]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise ApiError(400, f"input must be a string or array: got {kind(value)}")
    if not value:
        raise ApiError(400, "input must be a string or array: the array is empty")
    return [item for index, given in enumerate(value) for item in _read_item(given, f"input[{index}]")]


def _read_item(item: Any, where: str) -> list[Object]:
    """The item as the engine wants it; none for what is only a record."""
    if not isinstance(item, dict):
        raise ApiError(400, f"{where}: expected object")
    item = {name: value for name, value in item.items() if value is not None}
    match item.get("type", "message" if "role" in item else None):
        case None:
            raise ApiError(400, f"{where}: input item missing required 'type' field")
        case "message":
            return [_read_message(item, where)]
        case "reasoning":
            return _read_reasoning(item, where)
        case "function_call":
            return [_read_call(item, where)]
        case "function_call_output":
            return [_read_result(item, where)]
        case "web_search_call":
            return []
        case other if other in _ENGINE_ITEMS:
            return [item]
        case other:
            raise ApiError(400, f"{where}: unknown input item type: {_encode(other).decode()}")


def _read_message(item: Object, where: str) -> Object:
    if not isinstance(item.get("role"), str):
        raise ApiError(400, f"{where}.role: expected string")
    content = item.get("content")
    if not isinstance(content, str | list):
        raise ApiError(400, f"{where}.content: expected string or array")
    if isinstance(content, list):
        for index, part in enumerate(content):
            _check_part(part, f"{where}.content[{index}]")
    read = {"type": "message", "role": item["role"].lower(), "content": content}
    if read["role"] == "assistant" and isinstance(content, list):
        # The engine reads only the first part of what a model said.
        read["content"] = "".join(part.get("text") or part.get("refusal", "") for part in content)
    return read


def _check_part(part: Any, where: str) -> None:
    if not isinstance(part, dict):
        raise ApiError(400, f"{where}: expected object")
    match part.get("type"):
        case "input_image":
            if not isinstance(url := part.get("image_url"), str):
                raise ApiError(400, f"{where}.image_url: expected string")
            check_image(url)
        case "input_file":
            raise ApiError(400, "file inputs are not currently supported")
        case other if other not in _TEXTS:
            raise ApiError(400, f"{where}: unknown content type: {other}")
        case _ if not isinstance(part.get("text", part.get("refusal")), str):
            raise ApiError(400, f"{where}.text: expected string")


def _read_reasoning(item: Object, where: str) -> list[Object]:
    """Thinking that the model is to see again, from wherever it can be read."""
    text = joined(item.get("content")) or joined(item.get("summary")) or item.get("encrypted_content", "")
    if not isinstance(text, str):
        raise ApiError(400, f"{where}.encrypted_content: expected string")
    if not text:
        return []
    content = [{"type": "reasoning_text", "text": text}]
    return [{"type": "reasoning", "id": str(item.get("id", where)), "summary": [], "content": content}]


def _read_call(item: Object, where: str) -> Object:
    for name in ("call_id", "name"):
        if not isinstance(item.get(name), str):
            raise ApiError(400, f"{where}.{name}: expected string")
    try:
        return item | {"arguments": call_arguments(item.get("arguments"))}
    except ApiError:
        raise ApiError(400, f"{where}: failed to parse function call arguments: expected a JSON object") from None


def _read_result(item: Object, where: str) -> Object:
    if not isinstance(item.get("call_id"), str):
        raise ApiError(400, f"{where}.call_id: expected string")
    if not isinstance(item.get("output"), str | list):
        raise ApiError(400, f"{where}.output: expected string or array")
    return item


def _read_tool(tool: Object) -> Object:
    """The engine cannot hold a model to a tool's grammar, so the model is told of it."""
    grammar = tool.get("format")
    if tool.get("type") != "custom" or not isinstance(grammar, dict) or grammar.get("type") != "grammar":
        return tool
    rules = f"Its input follows this {grammar.get('syntax', '')} grammar:\n{grammar.get('definition', '')}"
    described = f"{tool.get('description') or ''}\n\n{rules}".strip()
    return tool | {"description": described, "format": {"type": "text"}}


def _show_images(items: Sequence[Object]) -> bool:
    messages = (item for item in items if item.get("type") == "message")
    contents = (message["content"] for message in messages if isinstance(message["content"], list))
    return any(part.get("type") == "input_image" for content in contents for part in content)


def _named_format(text: Object | None) -> Object:
    """The engine wants a name for a schema, Ollama does not."""
    if not text or not isinstance(wanted := text.get("format"), dict) or wanted.get("type") != "json_schema":
        return {}
    return {"text": text | {"format": {"name": "response"} | wanted}}
