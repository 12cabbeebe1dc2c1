"""A reply's bytes, cut into Server-Sent Events."""

from vllama.errors import EngineError

MAX_EVENT_BYTES = 16 * 2**20
_RETURN = ord("\r")  # looked for as a number: ten times as fast as as a text of one byte


class Events:
    """Fed with the bytes of a reply as they come, it gives the events that are whole.

    is_between: whether none has begun of which the end is missing.
    """

    def __init__(self) -> None:
        self.is_between = True
        self._rest = b""
        self._return = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks of the events that these bytes complete, without the blank lines between them, comments too.

        Raises EngineError for an event above MAX_EVENT_BYTES.
        """
        if _RETURN in data or self._return:
            data = self._with_newlines(data)
        if self._rest:
            data = self._rest + data
        blocks = data.split(b"\n\n")
        if (rest := blocks.pop()) and len(rest) > MAX_EVENT_BYTES:
            raise EngineError("the engine sent an event that is too large")
        self._rest = rest
        self.is_between = not (rest or self._return)
        return blocks

    def _with_newlines(self, data: bytes) -> bytes:
        """With "\\n" for "\\r\\n", whose second half may come with the next bytes."""
        data = self._return + data
        self._return = b"\r" if data.endswith(b"\r") else b""
        return data.removesuffix(b"\r").replace(b"\r\n", b"\n")

    def close(self) -> list[bytes]:
        """What a reply leaves whose end lacks its blank line."""
        rest = (self._rest + self._return).strip()
        self._rest = self._return = b""
        return [rest] if rest else []


def data_of(block: bytes) -> bytes:
    """An event's data; b"" where it has none, as a comment."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
