"""Ollama's requests and replies.

Source: the wire behaviour of Ollama 0.33. In a request `null` means absent; in a reply empty and zero fields are left
out where Ollama leaves them out.
"""

from typing import Any

from msgspec import UNSET, Struct, UnsetType


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
    function: ToolFunction
    type: str | None = None


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
    """What generate and chat share. `keep_alive`, `think` and `format` are checked by their translators."""

    stream: bool | None = None
    format: Any = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None
    think: Any = None


class GenerateRequest(Inference):
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ChatRequest(Inference):
    messages: list[Message] | None = None
    tools: list[Tool] | None = None


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


class GenerateChunk(Struct):
    """One line of a streamed generate, all but the last."""

    model: str
    created_at: str
    response: str
    thinking: str | UnsetType = UNSET
    done: bool = False
