"""The text of an event, found without reading the event again.

Nearly all events of a streamed reply are alike but for their text. Once one of them was decoded in full, the bytes
around its text are known, and an event with the same bytes around another text says that text, and nothing else.
"""

import functools
import re
from collections.abc import Callable

import msgspec

_TRIES = 8
_WORTH = 8
"""How often surroundings are learned at first, and how many finds pay for doing so once more: an engine whose events
always differ is left alone."""

_decode_text = msgspec.json.Decoder(str).decode
_DIGITS = b"0123456789"
_USUAL = bytes(range(0x20, 0x7F)).translate(None, b'"\\')
"""What most texts consist of: nothing that is escaped, or has to be."""
_ESCAPED = re.compile(r'(?:[^"\\\x00-\x1f]|\\["\\bfnrt])+').fullmatch
"""A JSON string's inside as every encoder writes it that escapes no more than it must."""

Write = Callable[[bytes], bool]
"""Takes some bytes at once, or takes nothing and returns False."""
Express = Callable[[bytes], bool]
"""Passes on an event that came alone, with the blank line behind it; or returns False for one that is to be read."""
Dated = tuple[bytes, Callable[[], bytes]]
"""What stands before the time at which something is passed on, and what tells that time."""


class Plain:
    """Learns from the events of one reply what surrounds a text, and finds the text of later ones.

    counts: what begins the part of an event, behind the text, in which numbers count up, if there is such a part and
    they are of no concern: digits may differ in it. field: of the texts that are found.
    """

    def __init__(self, counts: bytes = b"") -> None:
        self._learned = 0
        self._found = 0
        self._counts = counts
        self.field = ""
        self._suffix = b""
        self._start, self._stop = 0, 0
        self._skeleton = b""
        self.forget()

    def forget(self) -> None:
        """Have the next event read in full."""
        self._prefix = b"\n\n"  # begins no block

    @property
    def learns(self) -> bool:
        """Whether surroundings are still learned."""
        return self._learned < _TRIES + self._found // _WORTH

    def learn(self, block: bytes, field: str, text: str) -> bool:
        """Remember an event that says `text`, in its only member of the name `field`, and nothing else.

        Returns whether it is remembered; what was before it is forgotten then.
        """
        if not self.learns:
            return False
        self._learned += 1
        if (around := surroundings(block, field, text)) is None:
            return False
        self.field = field
        self._prefix, suffix = around
        before, mark, counts = suffix.partition(self._counts) if self._counts else (suffix, b"", b"")
        self._suffix, self._skeleton = before + mark, counts.translate(None, _DIGITS)
        self._start, self._stop = len(self._prefix), -len(self._suffix)
        return True

    def find(self, block: bytes) -> tuple[str, bytes] | None:
        """The field, and the inside of the JSON string in it: valid, and escaped no more than it must be.

        None for an event that has to be read in full: it differs in something else, or its text is empty or unusual.
        """
        if not block.startswith(self._prefix):
            return None
        if self._counts:
            raw, _, counts = block[self._start :].rpartition(self._suffix)
            if counts.translate(None, _DIGITS) != self._skeleton:
                return None
        elif block.endswith(self._suffix):
            raw = block[self._start : self._stop]
        else:
            return None
        if (raw.translate(None, _USUAL) or not raw) and not _is_inside(raw):
            return None
        self._found += 1
        return self.field, raw

    def express(self, before: bytes, after: bytes, write: Write, dated: Dated | None = None) -> Express:
        """What writes the text of such an event between these, behind the time, if it is told.

        It knows what is learned by now, and leaves texts to others that are not of ASCII or have something escaped.
        """
        prefix, suffix, skeleton = self._prefix, self._suffix, self._skeleton if self._counts else None
        end = suffix + b"\n\n"
        start, stop = len(prefix), -len(end)
        head, clock = dated or (b"", None)

        # Most tokens of all streams go through here, and in between the processor's caches were used by others: what
        # counts is how much is touched on the way, so all of it is in one function, which calls none that it need not.
        def pass_on(data: bytes) -> bool:
            if not data.startswith(prefix):
                return False
            if skeleton is not None:
                text, _, counts = data[start:].rpartition(suffix)
                if not counts.endswith(b"\n\n") or counts[:-2].translate(None, _DIGITS) != skeleton:
                    return False
            elif data.endswith(end):
                text = data[start:stop]
            else:
                return False
            if not text or text.translate(None, _USUAL):
                return False
            self._found += 1
            if clock is None:
                return write(b"%b%b%b" % (before, text, after))
            return write(b"%b%b%b%b%b" % (head, clock(), before, text, after))

        return pass_on


class Rewritten(Plain):
    """Also knows what a plain event becomes: what the one became that was learned, with another text.

    before, after: what surrounds the text there.
    """

    before = b""
    after = b""

    def learn_pair(self, block: bytes, made: bytes, field: str, text: str) -> bool:
        """As `learn`. made: what the event became, which says the same text in a member of the same name."""
        around = surroundings(made, field, text)
        if around is None or not self.learn(block, field, text):
            return False
        self.before, self.after = around
        return True

    def rewrite(self, write: Write) -> Express | None:
        """As `express`; None where nothing was learned."""
        return self.express(self.before, self.after, write) if self.field else None


def _is_inside(raw: bytes) -> bool:
    """Whether a JSON string can have it between its quotes, escaped no more than it must be."""
    try:
        return _ESCAPED(raw.decode()) is not None
    except UnicodeDecodeError:
        return False


def surroundings(block: bytes, field: str, text: str) -> tuple[bytes, bytes] | None:
    """The bytes before and after the inside of the JSON string `text`, the only one in members of the name `field`.

    None where there is another, or another text.
    """
    if (place := _place(block, field)) is None or _read(block, *place) != text:
        return None
    start, stop = place
    return block[:start], block[stop:]


def text_of(block: bytes, field: str) -> str | None:
    """The only string in members of the name `field`, if there is one."""
    place = _place(block, field)
    return None if place is None else _read(block, *place)


def _place(block: bytes, field: str) -> tuple[int, int] | None:
    found = list(_member(field).finditer(block))
    return found[0].span(1) if len(found) == 1 else None


def _read(block: bytes, start: int, stop: int) -> str | None:
    try:
        return _decode_text(block[start - 1 : stop + 1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@functools.cache
def _member(field: str) -> re.Pattern[bytes]:
    """A member that is a string: its quotes are none of a text's, as those are escaped."""
    return re.compile(rb'(?<!\\)"%s"\s*:\s*"((?:[^"\\]|\\.)*+)"' % field.encode())
