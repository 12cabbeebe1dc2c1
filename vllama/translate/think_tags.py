"""Thinking in plain text.

Where the engine hands a completion on as it is, the model's own tags tell its thinking from its answer.
"""

OPENING, CLOSING = "<think>", "</think>"


class ThinkTags:
    """Splits a streamed text at `<think>` and `</think>`, which may themselves be cut in two.

    begun: the prompt ended with the opening tag. Only tags at the start count: an answer may write about them.
    """

    def __init__(self, *, begun: bool = False) -> None:
        self._held = ""
        self._awaited: str | None = CLOSING if begun else OPENING

    def feed(self, text: str) -> tuple[str, str]:
        """(thinking, answer) that is certain by now."""
        if self._awaited is None:
            return "", text
        self._held += text
        if self._awaited == OPENING and not self._open():
            return "", self._held_if_answer()
        before, found, after = self._held.partition(CLOSING)
        if found:
            self._awaited, self._held = None, ""
            return before, after
        keep = _overlap(self._held, CLOSING)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain, ""

    def close(self) -> tuple[str, str]:
        """What is still held at the end."""
        held, self._held = self._held, ""
        return (held, "") if self._awaited == CLOSING else ("", held)

    def _open(self) -> bool:
        text = self._held.lstrip()
        if text.startswith(OPENING):
            self._held, self._awaited = text.removeprefix(OPENING), CLOSING
            return True
        return False

    def _held_if_answer(self) -> str:
        if OPENING.startswith(self._held.lstrip()):
            return ""
        text, self._held, self._awaited = self._held, "", None
        return text


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-size:])), 0)
