"""Ollama's generate and chat requests into bodies for the engine's OpenAI routes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vllama.errors import ApiError
from vllama.models.fim import fim_prompt
from vllama.models.model import Model
from vllama.models.modelfile import Modelfile
from vllama.translate.messages import engine_messages, engine_tool
from vllama.translate.options import check_options, sampling_parameters
from vllama.translate.template import is_go_template
from vllama.wire.ollama import ChatRequest, GenerateRequest, Inference, Message

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"

RENDERED = ("chat_template_kwargs", "chat_template", "tools", "add_generation_prompt", "continue_final_message")
"""What of a chat's body, beside its messages, decides which tokens the model sees."""

_LEVELS = ("low", "medium", "high", "max")
_CONSTRAINTS = ("regex", "choice", "grammar", "json", "json_object", "structural_tag")
_MOST_LOGPROBS = 20


@dataclass(frozen=True)
class Target:
    """What is known of the model that a request is for.

    templated: it has a chat template. thinks: it can think; a model of which nothing is known is told what the client
    wants, should it understand. muted: the engine expects thinking, but the model's own template makes none.
    fim_format: how it is asked to fill in the middle. parameters: options that hold where the request says nothing.
    """

    templated: bool = True
    thinks: bool = True
    muted: bool = False
    fim_format: str | None = None
    modelfile: Modelfile = field(default_factory=Modelfile)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model) -> "Target":
        fim = model.checkpoint.fim_format if model.checkpoint else None
        thinks = not model.lacks("thinking")
        muted = not thinks and model.checkpoint is not None and model.checkpoint.parsers.reasoning is not None
        return cls(model.templated, thinks, muted, fim, model.modelfile, model.parameters)

    def options(self, request: Inference) -> dict[str, Any]:
        """Checked options: the request's over the model's. Raises ApiError 500 for those of a wrong type."""
        return check_options({**self.parameters, **(request.options or {})})

    @property
    def num_ctx(self) -> int | None:
        """The model's own limit to prompt and reply together. Raises ApiError 500 for one of a wrong type."""
        return limit_of(check_options(self.parameters))

    @property
    def template(self) -> dict[str, Any]:
        """The member for a Modelfile's chat template."""
        return {"chat_template": self.modelfile.template} if self.modelfile.template else {}

    def variables(self, *, thinking: bool) -> dict[str, Any]:
        """For the chat template and the engine's parser of thinking; {} for a model that has nothing to do with it.

        Templates differ in the variable's name; an unknown one is not read.
        """
        if not self.thinks and not self.muted:
            return {}
        thinking = thinking and self.thinks
        return {"enable_thinking": thinking, "thinking": thinking}


@dataclass(frozen=True)
class EngineRequest:
    """path: the engine's route. body: its JSON object, without `model`.

    num_ctx: the client's own limit to prompt and reply together, in tokens. truncate: whether a prompt that is too long
    is shortened. context: tokens of an earlier exchange that precede the prompt.
    """

    path: str
    body: dict[str, Any]
    num_ctx: int | None = None
    truncate: bool = True
    context: tuple[int, ...] = ()


def once(translate: Callable[[Model], EngineRequest]) -> Callable[[Model], EngineRequest]:
    """Translates anew only where more is known of the model than the last time, as there may be once it is loaded."""
    known: tuple[Model, EngineRequest] | None = None

    def translated(model: Model) -> EngineRequest:
        nonlocal known
        if known is None or known[0] != model:
            known = model, translate(model)
        return known[1]

    return translated


def chat_request(request: ChatRequest, target: Target) -> EngineRequest:
    """What the engine is asked for a chat.

    Without a chat template Ollama's default template is followed: the contents of the messages one after another,
    nothing added. Raises ApiError for values that Ollama refuses.
    """
    messages = _with_modelfile(request.messages or [], target.modelfile)
    options = target.options(request)
    body = _common(request, options)
    if not target.templated:
        text = "".join(message.content or "" for message in messages)
        return _asked(request, options, COMPLETION_PATH, body | _completion_logprobs(request) | {"prompt": text})
    body |= _conversation(messages) | _chat_logprobs(request) | _thinking(request, messages, target) | target.template
    if request.tools:
        body |= {"tools": [engine_tool(tool) for tool in request.tools]} | _tool_choice(request.tool_choice)
    return _asked(request, options, CHAT_PATH, body)


def generate_request(request: GenerateRequest, target: Target) -> EngineRequest:
    """What the engine is asked for a generate: a chat of one user message, the bare prompt, or a gap to fill.

    With a `suffix` the model fills in what belongs before it. The prompt goes out bare for `raw`, whatever suffix there
    is, and for a model without a chat template (behind its `system`, as Ollama's default template has it). Raises
    ApiError for values that Ollama refuses.
    """
    options = target.options(request)
    body = _common(request, options)
    system = request.system or target.modelfile.system
    if request.suffix and not request.raw:
        body |= _gap(request, target) | _completion_logprobs(request) | {"return_token_ids": True}
        return _asked(request, options, COMPLETION_PATH, body)
    if request.raw or not target.templated:
        prompt = (request.prompt or "") if request.raw else system + (request.prompt or "")
        body |= _completion_logprobs(request) | {"prompt": prompt}
        return _asked(request, options, COMPLETION_PATH, body | ({} if request.raw else {"return_token_ids": True}))
    messages = [Message(role="user", content=request.prompt, images=request.images)]
    if not request.context:
        messages = [*_examples(target.modelfile), *messages]
    if system:
        messages.insert(0, Message(role="system", content=system))
    body |= _conversation(messages) | _chat_logprobs(request) | _thinking(request, messages, target)
    body |= (client_template(request) or target.template) | {"return_token_ids": True}
    return _asked(request, options, CHAT_PATH, body)


def _gap(request: GenerateRequest, target: Target) -> dict[str, Any]:
    """The gap between prompt and suffix, in the model's own marks; what is unknown here may be known to the engine."""
    prefix, suffix = request.prompt or "", request.suffix or ""
    if target.fim_format is None:
        return {"prompt": prefix, "suffix": suffix}
    return {"prompt": fim_prompt(target.fim_format, prefix, suffix)}


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


def check_top_logprobs(value: int | None) -> None:
    """Raises ApiError 400 in Ollama's words."""
    if not 0 <= (value or 0) <= _MOST_LOGPROBS:
        raise ApiError(400, f"top_logprobs must be between 0 and {_MOST_LOGPROBS}")


def _asked(request: Inference, options: dict[str, Any], path: str, body: dict[str, Any]) -> EngineRequest:
    return EngineRequest(
        path,
        body,
        num_ctx=limit_of(options),
        truncate=request.truncate is not False,
        context=tuple(request.context or ()) if isinstance(request, GenerateRequest) and not request.raw else (),
    )


def limit_of(options: Mapping[str, Any]) -> int | None:
    """What `num_ctx` says in checked options. Ollama's own floor is 4; 0 and less leave it to the server."""
    num_ctx: int = options.get("num_ctx", 0)
    return max(num_ctx, 4) if num_ctx > 0 else None


def _with_modelfile(messages: Sequence[Message], modelfile: Modelfile) -> list[Message]:
    """A model's own messages come first, and before them its system text unless the client begins with one.

    That one then is the first of all: many templates refuse another place.
    """
    own = 1 if messages and messages[0].role.lower() == "system" else 0
    system = [Message(role="system", content=modelfile.system)] if modelfile.system and not own else messages[:own]
    return [*system, *_examples(modelfile), *messages[own:]]


def _examples(modelfile: Modelfile) -> list[Message]:
    return [Message(role=role, content=content) for role, content in modelfile.messages]


def _common(request: Inference, options: dict[str, Any]) -> dict[str, Any]:
    body = sampling_parameters(options) | _constraint(request)
    if request.priority is not None:
        body["priority"] = request.priority
    # Anything but an explicit false streams.
    if request.stream is not False:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _constraint(request: Inference) -> dict[str, Any]:
    if request.structured_outputs is None:
        return _response_format(request.format)
    if request.format not in (None, ""):
        raise ApiError(400, "structured_outputs: give either this or format")
    kinds = [kind for kind in _CONSTRAINTS if request.structured_outputs.get(kind) is not None]
    if len(kinds) != 1:
        raise ApiError(400, f"structured_outputs: expected exactly one of {', '.join(_CONSTRAINTS)}")
    return {"structured_outputs": request.structured_outputs}


def _response_format(value: Any) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if value == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(value, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": value}}}
    raise ApiError(500, f'invalid format: {_json(_json(value))}; expected "json" or a valid JSON Schema object')


def _conversation(messages: Sequence[Message]) -> dict[str, Any]:
    """The messages; a last one of the assistant's is gone on with, not answered."""
    body: dict[str, Any] = {"messages": engine_messages(messages)}
    if _is_prefilled(messages):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _is_prefilled(messages: Sequence[Message]) -> bool:
    last = messages[-1]
    return last.role.lower() == "assistant" and bool(last.content) and not last.tool_calls


def _thinking(request: Inference, messages: Sequence[Message], target: Target) -> dict[str, Any]:
    """Thinking is on where the model can think and the request does not say otherwise.

    An answer that has begun is past thinking: vLLM would take what goes on with it for thoughts.
    """
    think = check_think(request.think)
    enabled = think is not False and not _is_prefilled(messages)
    if not (variables := target.variables(thinking=enabled)):
        return {}
    fields: dict[str, Any] = {"chat_template_kwargs": variables}
    enabled = enabled and target.thinks
    if isinstance(think, str) and enabled:
        fields["reasoning_effort"] = think
    if request.thinking_token_budget is not None and enabled:
        fields["thinking_token_budget"] = request.thinking_token_budget
    return fields


def _chat_logprobs(request: Inference) -> dict[str, Any]:
    return {"logprobs": True, "top_logprobs": request.top_logprobs or 0} if request.logprobs else {}


def _completion_logprobs(request: Inference) -> dict[str, Any]:
    return {"logprobs": request.top_logprobs or 0} if request.logprobs else {}


def _tool_choice(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {}
        case "auto" | "none" | "required" | {"type": "function", "function": {"name": str()}}:
            return {"tool_choice": value}
    raise ApiError(
        400,
        'tool_choice: expected "auto", "none", "required" or {"type": "function", "function": {"name": …}}',
    )


def client_template(request: GenerateRequest) -> dict[str, Any]:
    """The member for the client's own chat template. Raises ApiError 400 for one in Go's language."""
    template = request.template
    if not template:
        return {}
    if is_go_template(template):
        raise ApiError(400, "template: Go templates are not rendered; send a Jinja template, or the prompt with raw")
    return {"chat_template": template}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
