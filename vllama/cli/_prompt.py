"""The line editor of the interactive chat."""

import os
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.color_depth import ColorDepth

_QUOTES = '"""'
_BEFORE_QUOTES: tuple[list[str], ...] = ([], ["/set", "system"])
"""What may stand before quotes that open a text of several lines."""


class Prompt:
    """Reads what a person writes. Lines are kept in `history` while `remember` is true."""

    def __init__(self, history: Path) -> None:
        self.remember = not os.environ.get("OLLAMA_NOHISTORY")
        self._session: PromptSession[str] = PromptSession(
            history=self._history(history), key_bindings=_keys(), color_depth=ColorDepth.ANSI_COLORS_ONLY
        )

    def read(self) -> str:
        """A message, of one line or between triple quotes. Raises EOFError, and KeyboardInterrupt."""
        line = self._ask(">>> ", "Send a message (/? for help)")
        head, opened, rest = line.partition(_QUOTES)
        if not opened or head.split() not in _BEFORE_QUOTES:
            return line
        while not rest.endswith(_QUOTES):
            rest += "\n" + self._ask("... ", f"Use {_QUOTES} to end multi-line input")
        return head + rest.removesuffix(_QUOTES)

    @property
    def is_empty(self) -> bool:
        """Whether nothing had been written when reading was interrupted."""
        return not self._session.default_buffer.text

    def _ask(self, prompt: str, placeholder: str) -> str:
        return self._session.prompt(prompt, placeholder=lambda: _grey(placeholder))

    def _history(self, path: Path) -> History:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError:
            return InMemoryHistory()
        return _File(str(path), self)


class _File(FileHistory):
    def __init__(self, path: str, prompt: Prompt) -> None:
        super().__init__(path)
        self._prompt = prompt

    def store_string(self, string: str) -> None:
        if self._prompt.remember:
            super().store_string(string)


def _grey(text: str) -> FormattedText:
    """Only while there is something to be written: it does not stay on the screen when the line is left."""
    return FormattedText([] if get_app().is_done else [("fg:ansibrightblack", text)])


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-g")
    def _edit(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys
