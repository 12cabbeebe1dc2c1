"""Anthropic's requests for messages, as far as a local model can follow them. What is not named here is not read.

Source: Anthropic's Messages API, version 2023-06-01.
"""

from typing import Any

from msgspec import Struct


class Block(Struct):
    """One block of content, of any type. `source` and `content` differ from type to type."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    source: Any = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None


Content = str | list[Block] | None


class Message(Struct):
    role: str = ""
    content: Content = None


class Tool(Struct):
    """`input_schema` is a JSON schema, handed on as it came. type: absent for a tool of the client's own making."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: Any = None


class ToolChoice(Struct):
    type: str = ""
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct):
    type: str | None = None
    budget_tokens: int | None = None


class OutputFormat(Struct):
    type: str | None = None
    schema: dict[str, Any] | None = None


class OutputConfig(Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class MessagesRequest(Struct):
    """`stream` and the members that steer sampling mean nothing where only tokens are counted."""

    model: str | None = None
    max_tokens: int | None = None
    messages: list[Message] | None = None
    system: Content = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    @property
    def wanted(self) -> str:
        return self.model or ""
