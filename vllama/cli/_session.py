"""What a run of a model goes by: its settings, and what was said so far."""

import json
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass
class Style:
    """How answers are shown."""

    wrap: bool = True
    hide_thinking: bool = False
    verbose: bool = False


@dataclass
class Session:
    """shown: what `/api/show` says of the model. think: None leaves it to the model."""

    model: str
    shown: dict[str, Any]
    style: Style = field(default_factory=Style)
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    format: Any = None
    think: bool | str | None = None
    keep_alive: str | None = None

    def can(self, ability: str) -> bool:
        return ability in (self.shown.get("capabilities") or ())

    def think_if_it_can(self) -> None:
        self.think = True if self.can("thinking") else None

    @property
    def no_thinking(self) -> str:
        return f'warning: model "{self.model}" does not support thinking output'

    def generate_request(self, prompt: str, images: list[str]) -> dict[str, Any]:
        return self._request(prompt=prompt, images=images, system=self.system)

    def chat_request(self) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self._request(messages=system + self.messages)

    def load_request(self) -> dict[str, Any]:
        return _given(model=self.model, keep_alive=self.keep_alive)

    def create_request(self, name: str) -> dict[str, Any]:
        """What makes a model of this session."""
        messages = [*(self.shown.get("messages") or ()), *self.messages] if self.messages else []
        return _given(model=name, system=self.system, parameters=self.options, messages=messages) | {"from": self.model}

    def _request(self, **more: Any) -> dict[str, Any]:
        return _given(
            model=self.model,
            format=self.format,
            options=self.options,
            keep_alive=self.keep_alive,
            **more,
        ) | ({} if self.think is None else {"think": self.think})


def read_format(text: str) -> Any:
    """`json`, or a JSON schema. Raises ValueError."""
    return text if text in ("", "json") else json.loads(text)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
