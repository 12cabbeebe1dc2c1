"""OpenAI's requests for chats and completions, checked and completed as Ollama does.

The engine speaks OpenAI's protocol itself. What is not looked at here it gets as it came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama.errors import ApiError
from vllama.models.modelfile import Modelfile
from vllama.translate.openai_messages import Object, abilities, kind, read_messages
from vllama.translate.options import LARGEST_LIMIT, check_options, sampling_parameters
from vllama.translate.request import Target, check_top_logprobs
from vllama.wire.openai_requests import ChatRequest, CompletionRequest, Sampled

DEFAULTS: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
"""OpenAI's, which Ollama puts above a Modelfile's parameters."""

_EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}
_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty")
_WITH_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
_NAMELESS = {"name": "response"}

_encode = msgspec.json.Encoder().encode

Think = bool | str | None
"""Whether to think, or how hard; None where the client does not say."""


@dataclass(frozen=True)
class Chat:
    """A chat that is fit for the engine but for what depends on the model.

    members: of the client's body, by name. options: by Ollama's names. needs: capabilities.
    """

    members: Mapping[str, Any]
    messages: Sequence[Object]
    options: Mapping[str, Any]
    think: Think
    needs: frozenset[str]
    template_variables: Mapping[str, Any]


def read_chat(members: Mapping[str, Any], request: ChatRequest) -> Chat:
    """members, request: the same body, undecoded and decoded. Raises ApiError 400 for what cannot be asked."""
    if not request.messages:
        raise ApiError(400, "[] is too short - 'messages'")
    messages = read_messages(request.messages)
    effort = request.reasoning.effort if request.reasoning else None
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    check_top_logprobs(request.top_logprobs)
    # What has no meaning without another member Ollama does not look at, and the engine refuses.
    conditional: dict[str, Any] = {"stream_options": request.stream, "top_logprobs": request.logprobs}
    conditional |= dict.fromkeys(_WITH_TOOLS, request.tools)
    dropped = {"reasoning", "reasoning_effort", "max_completion_tokens"}
    dropped.update(name for name, used in conditional.items() if not used)
    return Chat(
        members={name: value for name, value in members.items() if name not in dropped}
        | _named_format(request.response_format),
        messages=messages,
        options=read_options(request, limit),
        think=read_effort(effort or request.reasoning_effort),
        needs=frozenset(abilities(messages) | ({"tools"} if request.tools else set())),
        template_variables=request.chat_template_kwargs or {},
    )


def chat_body(chat: Chat, target: Target, context_length: int | None) -> Object:
    """What the engine is asked, without `model`. A model that can think does unless the client objects."""
    body = target.template | complete(chat.members, {**target.parameters, **DEFAULTS, **chat.options}, context_length)
    body["messages"] = with_modelfile(target.modelfile, chat.messages)
    if variables := target.variables(thinking=chat.think is not False):
        body["chat_template_kwargs"] = {**variables, **chat.template_variables}
    if target.thinks and isinstance(chat.think, str):
        body["reasoning_effort"] = chat.think
    return body


def completion_body(
    members: Mapping[str, Any], request: CompletionRequest, target: Target, context_length: int | None
) -> Object:
    """What the engine is asked to continue: the bare prompt, to its end where the client gives no limit."""
    options = {**target.parameters, **DEFAULTS, **read_options(request, request.max_tokens)}
    dropped = {name for name, used in (("suffix", request.suffix), ("stream_options", request.stream)) if not used}
    body = complete({name: value for name, value in members.items() if name not in dropped}, options, context_length)
    if request.echo and request.max_tokens == 0:
        return body | {"max_tokens": 0}  # how the probabilities of a given text are asked for
    return {"max_tokens": context_length} | body if context_length else body


def read_effort(effort: str | None) -> Think:
    """How hard to think. Raises ApiError 400 in Ollama's words."""
    if not effort:
        return None
    if effort not in _EFFORTS:
        allowed = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'
        raise ApiError(400, f"invalid reasoning value: {_encode(effort).decode()} (must be {allowed})")
    return _EFFORTS[effort]


def read_options(request: Sampled, limit: int | None) -> Object:
    """What a request says about sampling, by Ollama's names. limit: the most tokens to generate."""
    named: Object = {name: getattr(request, name) for name in _OPTIONS}
    named |= {"repeat_penalty": request.repetition_penalty, "stop": _stop(request.stop)}
    named["num_predict"] = None if limit is None else min(max(limit, -1), LARGEST_LIMIT)
    try:
        return check_options(named)
    except ApiError as error:
        raise ApiError(400, error.message) from None


def complete(members: Mapping[str, Any], options: Mapping[str, Any], context_length: int | None) -> Object:
    """The members with the options in the engine's names and ranges."""
    sampling = sampling_parameters(check_options(options))
    if context_length is not None and sampling.get("max_tokens", 0) > context_length:
        sampling["max_tokens"] = context_length
    replaced = {*_OPTIONS, "repetition_penalty", "stop", "max_tokens"}
    return {name: value for name, value in members.items() if name not in replaced} | sampling


def with_modelfile(modelfile: Modelfile, messages: Sequence[Object]) -> list[Object]:
    """The conversation behind what a Modelfile puts before it: its system text where there is none yet, its messages.

    A system text that the conversation begins with stays the first of all: many templates refuse another place.
    """
    own = 1 if messages and messages[0].get("role") == "system" else 0
    system = [{"role": "system", "content": modelfile.system}] if modelfile.system and not own else messages[:own]
    return [*system, *({"role": role, "content": content} for role, content in modelfile.messages), *messages[own:]]


def _stop(value: Any) -> list[str] | None:
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else value
    wrong = next((text for text in texts if not isinstance(text, str)), None) if isinstance(texts, list) else texts
    if wrong is not None or (isinstance(texts, list) and None in texts):
        raise ApiError(400, f"invalid type for 'stop' field: {kind(wrong)}")
    return list(texts)


def _named_format(response_format: Object | None) -> Object:
    """The engine wants a name for a schema, Ollama does not."""
    if not response_format or not isinstance(schema := response_format.get("json_schema"), dict):
        return {}
    return {"response_format": response_format | {"json_schema": _NAMELESS | schema}}
