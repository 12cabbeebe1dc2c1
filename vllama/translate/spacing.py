"""The white space that models put around their thinking, which no client wants to see."""


class Trimmer:
    """Drops the white space around one reply's thinking, and before the answer that follows it, while both grow.

    answering: whether the answer has begun: all that follows of it is added as it is.
    """

    def __init__(self) -> None:
        self.answering = False
        self._thought = False
        self._thinking_begun = False
        self._held_space = ""  # ends the thinking so far: dropped unless more thinking follows

    def thinking(self, text: str) -> str:
        """What the next part of the thinking adds to it."""
        self._thought = True
        text = self._held_space + text if self._thinking_begun else text.lstrip()
        kept = text.rstrip()
        self._held_space = text[len(kept) :]
        self._thinking_begun = self._thinking_begun or bool(kept)
        return kept

    def thinks_on(self, raw: bytes) -> bool:
        """Whether the next part of the thinking, the inside of a JSON string, is added as it is. May be too careful."""
        if self._held_space or not self._thinking_begun:
            return False
        return raw[-2:-1] != b"\\" and not raw.decode()[-1:].isspace()

    def answer(self, text: str) -> str:
        """What the next part of the answer adds to it."""
        if self._thought and not self.answering:
            text = text.lstrip()
        self.answering = self.answering or bool(text)
        return text
