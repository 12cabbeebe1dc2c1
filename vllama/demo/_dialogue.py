"""The types of what the demo models know."""

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Dialogue:
    """A request and its answer. `messages` ends with the message that is answered."""

    name: str
    messages: tuple[Message, ...]
    answer: str = ""
    thinking: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    schema: dict[str, Any] | None = None
    """The JSON schema that `answer` follows, for dialogues about structured output."""
    endless: bool = False
    """The answer repeats until the context is full and never ends by itself; `answer` is what is repeated."""

    @property
    def question(self) -> str:
        return str(self.messages[-1]["content"])


@dataclass(frozen=True)
class Completion:
    """Raw text without a chat template, and how the model goes on before it ends."""

    name: str
    prompt: str
    text: str


@dataclass(frozen=True)
class Triple:
    """For the embedding model: `sentence` lies nearer to `near` than to `far`."""

    sentence: str
    near: str
    far: str
