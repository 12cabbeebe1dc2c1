"""Words of a stream, broken into lines as they come."""

import re
import shutil

from rich.cells import cell_len

_MARGIN = 5
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """The text without what a terminal would obey: a model's words must not move cursors or rename windows."""
    return _CONTROL.sub("", text)


class Wrapper:
    """Begins a new line before the word that would not fit, also where the word's beginning is printed already."""

    def __init__(self, width: int | None = None) -> None:
        self._width = (width or shutil.get_terminal_size().columns) - _MARGIN
        self._used = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """What to print for it."""
        return "".join(map(self._character, text)) if self._width > _MARGIN else text

    def _character(self, character: str) -> str:
        if character == "\n":
            self._used, self._word = 0, ""
            return character
        size = cell_len(character)
        if self._used + size > self._width:
            return self._break(character, size)
        self._used += size
        # Wide characters, as in Chinese, are words of their own.
        self._word = "" if character.isspace() or size > 1 else self._word + character
        return character

    def _break(self, character: str, size: int) -> str:
        if character.isspace():
            self._used, self._word = 0, ""
            return "\n"
        taken = cell_len(self._word)
        if taken == self._used or size > 1:  # nowhere to break but here
            self._used, self._word = size, character if size == 1 else ""
            return f"\n{character}"
        back = f"\x1b[{taken}D\x1b[K" if taken else ""
        self._word += character
        self._used = taken + size
        return f"{back}\n{self._word}"
