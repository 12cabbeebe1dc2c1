"""The events of an engine's completion, read one by one; the most common ones without decoding them."""

import abc
from collections.abc import Mapping, Sequence

import msgspec

from vllama.engine.events import data_of
from vllama.routes._failures import failed
from vllama.translate.reply import Reply, only_text
from vllama.translate.shortcut import Dated, Express, Plain, Write
from vllama.wire.openai import Completion

_USAGE = b'"usage":{'

decode = msgspec.json.Decoder(Completion).decode


class CompletionTranslator(abc.ABC):
    """Reads the events of a completion into the reply that they add to.

    An event that adds a text and nothing else is neither decoded nor encoded: the text's JSON goes from one frame into
    another. dated: what a text begins with that is passed on, if it tells the time.
    with_tokens: whether the events bring the ids of their tokens.
    counted: whether each says how many tokens there are by now. Only the last one's word counts, which is read in full
    as it ends the reply.
    complete: whether the engine said that this was all.
    frames: what stands before and behind such a text, by the field that it came in; one that came in no such field is
    read in full.
    """

    frames: Mapping[str, tuple[bytes, bytes]]

    def __init__(
        self, reply: Reply, *, dated: Dated | None = None, with_tokens: bool = False, counted: bool = False
    ) -> None:
        self.complete = False
        self._dated = dated
        self._reply = reply
        self._with_tokens = with_tokens
        self._counted = counted
        self._open: tuple[bytes, bytes] | None = None  # of all plain events, until one is read again
        self._plain = Plain(_USAGE if counted else b"")

    def _before(self) -> bytes:
        """What a text begins with that is passed on now."""
        return b"" if self._dated is None else self._dated[0] + self._dated[1]()

    def express(self, write: Write) -> Express | None:
        return None if self._open is None else self._plain.express(*self._open, write, self._dated)

    def feed(self, blocks: list[bytes], out: list[bytes]) -> None:
        before: bytes | None = None
        for block in blocks:
            if self._open is not None and (found := self._plain.find(block)) is not None:
                before = self._before() if before is None else before
                out += (before, self._open[0], found[1], self._open[1])
            elif not self._pass_on(block, out):
                before = None  # no earlier than what was written in between

    def _pass_on(self, block: bytes, out: list[bytes]) -> bool:
        """An event that may not be passed on without looking at what came before it. Whether it was not read."""
        known, tokens = _cut(block) if self._with_tokens else (block, ())
        if (
            (found := self._plain.find(known)) is None
            or (frame := self.frames.get(found[0])) is None
            or (text := self._reply.add_text(*found)) is None
        ):
            self._read(block, known, tokens, out)
            return False
        out += (self._before(), frame[0], text, frame[1])
        if tokens:
            self._reply.tokens += tokens
        return True

    @abc.abstractmethod
    def add(self, completion: Completion, out: list[bytes]) -> None:
        """Append what becomes of an event that was read in full, and is no error."""

    def _read(self, block: bytes, known: bytes, tokens: Sequence[int], out: list[bytes]) -> None:
        """known: the block without its tokens."""
        data = data_of(block)
        if not data:
            return
        if data == b"[DONE]":
            self.complete = True
            return
        completion = decode(data)
        if completion.error is not None:
            raise failed(data)
        self.add(completion, out)
        if self._counted:
            completion.usage = None
        if (text := only_text(completion, tokens)) is not None:
            self._plain.learn(known, *text)
        field = self._plain.field
        self._open = self.frames.get(field) if self._reply.adds_all(field) and not self._with_tokens else None


def _cut(block: bytes) -> tuple[bytes, Sequence[int]]:
    """An event without its tokens' ids, which end it, and the ids; all of it where it has none."""
    # In a text the quotation marks would be escaped.
    head, found, rest = block.rpartition(b'"token_ids":[')
    ids = rest[:-4]
    if not found or rest[-4:] != b"]}]}":
        return block, ()
    if ids.isdigit():  # one token, as nearly always
        return head, (int(ids),)
    tokens = ids.split(b",")
    return (head, [int(token) for token in tokens]) if all(map(bytes.isdigit, tokens)) else (block, ())
