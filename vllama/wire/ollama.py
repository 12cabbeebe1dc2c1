"""Ollama's requests and replies.

Source: the wire behaviour of Ollama 0.33. In a request `null` means absent; in a reply empty and zero fields are left
out where Ollama leaves them out.
"""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field

TokenId = Annotated[int, Meta(ge=0, lt=2**32)]


class Named(Struct):
    """What every request about a model starts with. Older clients, and Ollama's own command line, send `name`."""

    model: str | None = None
    name: str | None = None

    @property
    def wanted(self) -> str:
        return self.model or self.name or ""


class ShowRequest(Named):
    system: str | None = None
    verbose: bool | None = None
    options: dict[str, Any] | None = None


class ToolFunction(Struct):
    """A tool's declaration. `parameters` is a JSON schema, handed on as it came."""

    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct):
    """Its `type` is not looked at: a function is the only kind there is."""

    function: ToolFunction


class CalledFunction(Struct, kw_only=True):
    """`arguments` keeps the key order of the model, or of the client that sends it back, some of which send text."""

    index: int = 0
    name: str = ""
    arguments: dict[str, Any] | str = {}


class ToolCall(Struct, kw_only=True):
    id: str | None = None
    function: CalledFunction


class Message(Struct):
    role: str = ""
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Inference(Named):
    """What generate and chat share. `keep_alive`, `think` and `format` are checked by their translators.

    The last five are not Ollama's: what its users ask for and vLLM has, under vLLM's names, and whether a stream is to
    tell of the model's load.
    """

    stream: bool | None = None
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    think: Any = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    debug_render_only: bool | None = field(default=None, name="_debug_render_only")
    structured_outputs: dict[str, Any] | None = None
    thinking_token_budget: int | None = None
    priority: int | None = None
    loading_status: bool | None = None


class GenerateRequest(Inference):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[TokenId] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ChatRequest(Inference):
    """`tool_choice` is OpenAI's."""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None


class DecisionRequest(Named):
    """`state` and `questions` are handed on as they came: what they may be is the engine's to know."""

    state: Any = None
    questions: dict[str, Any] | None = None
    keep_alive: Any = None


class TokenLogprob(Struct, omit_defaults=True):
    """A token and the logarithm of its probability. bytes: the token's text in UTF-8."""

    token: str
    logprob: float
    bytes: list[int] = []


class Logprob(TokenLogprob, omit_defaults=True):
    """A token of the reply, with the likeliest ones at its place, where they were asked for."""

    top_logprobs: list[TokenLogprob] = []


class ReplyMessage(Struct):
    role: str
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChunk(Struct):
    """One line of a streamed chat, all but the last."""

    model: str
    created_at: str
    message: ReplyMessage
    done: bool = False
    logprobs: list[Logprob] | UnsetType = UNSET


class GenerateChunk(Struct):
    """One line of a streamed generate, all but the last."""

    model: str
    created_at: str
    response: str
    thinking: str | UnsetType = UNSET
    done: bool = False
    logprobs: list[Logprob] | UnsetType = UNSET
