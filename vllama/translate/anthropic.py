"""Anthropic's requests into bodies for the engine's OpenAI routes.

vLLM has these endpoints, too, but takes fewer sampling parameters there than a Modelfile can name, refuses blocks that
Ollama passes over, and leaves the white space around thinking as the model wrote it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama.errors import ApiError
from vllama.translate.anthropic_messages import EngineMessage, has_images, read_conversation
from vllama.translate.openai import with_modelfile
from vllama.translate.options import LARGEST_LIMIT, check_options, sampling_parameters
from vllama.translate.request import CHAT_PATH, COMPLETION_PATH, EngineRequest, Target, limit_of
from vllama.wire.anthropic import MessagesRequest, Tool, ToolChoice

_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_REMOTE_TOOLS = ("web_search", "web_fetch", "code_execution", "mcp_toolset")
_TOOL_SEARCH = "tool_search_tool"


@dataclass(frozen=True)
class Asked:
    """A request that has been checked, in the engine's words but for what depends on the model."""

    request: MessagesRequest
    conversation: Sequence[EngineMessage]
    tools: Sequence[Mapping[str, Any]]
    tool_choice: Mapping[str, Any]

    @property
    def shows_images(self) -> bool:
        return has_images(self.conversation)


def check_request(request: MessagesRequest, *, counting: bool) -> Asked:
    """Raises ApiError 400, in Ollama's order and words. counting: only the tokens of the prompt are asked for."""
    if not request.wanted.strip():
        raise ApiError(400, "model is required")
    if not counting and (request.max_tokens or 0) <= 0:
        raise ApiError(400, "max_tokens is required and must be positive")
    if not request.messages:
        raise ApiError(400, "messages is required")
    conversation = read_conversation(request.system, request.messages)
    if not conversation:
        raise ApiError(400, "messages: there is no text in them")
    tools = [_tool(tool) for tool in request.tools or () if not (tool.type or "").startswith(_TOOL_SEARCH)]
    return Asked(request, conversation, tools, _tool_choice(request.tool_choice))


def message_request(asked: Asked, target: Target, context_length: int | None) -> EngineRequest:
    """What the engine is asked for a message. Raises ApiError for options that Ollama refuses."""
    request = asked.request
    options = check_options({**target.parameters, **_options(request)})
    body = sampling_parameters(options) | _response_format(request)
    if context_length is not None:  # of which the engine leaves what the prompt does not take
        body["max_tokens"] = min(body["max_tokens"], context_length)
    if request.stream:
        # The first event tells how long the prompt is.
        body |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    body |= prompt(asked, target)
    if not target.templated:
        return EngineRequest(COMPLETION_PATH, body, limit_of(options), truncate=False)
    if "tools" in body:
        body |= asked.tool_choice
    if target.thinks and _thinking_enabled(asked):
        body |= _thinking_limits(request)
    return EngineRequest(CHAT_PATH, body, limit_of(options), truncate=False)


def prompt(asked: Asked, target: Target) -> dict[str, Any]:
    """All that decides which tokens the model sees, as the engine's chats and its `/tokenize` are told."""
    messages = with_modelfile(target.modelfile, asked.conversation)
    if not target.templated:
        return {"prompt": "".join(_text(message) for message in messages)}
    body: dict[str, Any] = {"messages": messages} | target.template
    # Where no tool may be used, a model that is told of none does not try to.
    if asked.tools and asked.tool_choice.get("tool_choice") != "none":
        body["tools"] = asked.tools
    if _is_prefilled(asked):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if variables := target.variables(thinking=_thinking_enabled(asked)):
        body["chat_template_kwargs"] = variables
    return body


def _options(request: MessagesRequest) -> dict[str, Any]:
    given = {
        "num_predict": min(request.max_tokens or 0, LARGEST_LIMIT),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences or None,
    }
    try:
        return check_options(given)
    except ApiError as error:
        raise ApiError(400, error.message) from None


def _text(message: EngineMessage) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _is_prefilled(asked: Asked) -> bool:
    """Whether the conversation ends in an answer that the model is to go on with."""
    last = asked.conversation[-1]
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _thinking_enabled(asked: Asked) -> bool:
    """An answer that has begun is past thinking: vLLM would take what goes on with it for thoughts."""
    thinking = asked.request.thinking
    return not (thinking and thinking.type == "disabled") and not _is_prefilled(asked)


def _thinking_limits(request: MessagesRequest) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if request.output_config and (effort := _EFFORTS.get(request.output_config.effort or "")):
        limits["reasoning_effort"] = effort
    thinking = request.thinking
    if thinking and thinking.type == "enabled" and (thinking.budget_tokens or 0) > 0:
        limits["thinking_token_budget"] = thinking.budget_tokens
    return limits


def _response_format(request: MessagesRequest) -> dict[str, Any]:
    wanted = request.output_config and request.output_config.format
    if not wanted or wanted.schema is None:
        return {}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": wanted.schema}}}


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.type and tool.type.startswith(_REMOTE_TOOLS):
        raise ApiError(400, f"tools: {tool.type} runs on Anthropic's servers and cannot be used here; leave it out")
    if not tool.name:
        raise ApiError(400, "tools: every tool needs a name")
    name = msgspec.json.encode(tool.name).decode()
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.input_schema is not None:
        if not isinstance(tool.input_schema, dict):
            raise ApiError(400, f"invalid input_schema for tool {name}: expected object")
        function["parameters"] = tool.input_schema
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    if choice.type == "tool":
        if not choice.name:
            raise ApiError(400, 'tool_choice.name is required where tool_choice.type is "tool"')
        chosen: Any = {"type": "function", "function": {"name": choice.name}}
    elif choice.type in _CHOICES:
        chosen = _CHOICES[choice.type]
    else:
        raise ApiError(400, 'tool_choice.type: expected "auto", "any", "tool" or "none"')
    parallel = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    return {"tool_choice": chosen} | parallel
