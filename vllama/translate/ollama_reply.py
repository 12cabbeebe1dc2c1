"""The objects that Ollama's replies to generate and chat are made of."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET

from vllama.translate.reply import Piece
from vllama.wire.ollama import ChatChunk, GenerateChunk, ReplyMessage

_encode = msgspec.json.Encoder().encode
_TIME, _TEXT = "\x01", "\x02"
"""Stand for what differs between two chunks of a reply. No model's name has them, and JSON escapes them."""
_TIME_MARK, _TEXT_MARK = (_encode(mark)[1:-1] for mark in (_TIME, _TEXT))


@dataclass(frozen=True)
class Shape:
    """How generate's and chat's replies differ.

    chunk: one streamed object. texts: the text fields of the last object. logprobs_last: whether they come behind the
    metrics there. rendered: the text fields where the prompt was only rendered.
    """

    chunk: Callable[[str, str, Piece], bytes]
    texts: Callable[[Piece], dict[str, Any]]
    logprobs_last: bool
    rendered: dict[str, Any]

    def before_time(self, model: str) -> bytes:
        """What every chunk of a reply begins with, up to the time."""
        return self.chunk(model, _TIME, Piece()).rpartition(_TIME_MARK)[0]

    @functools.cached_property
    def around_text(self) -> tuple[bytes, bytes]:
        """What stands between a chunk's time and its only text, and behind that."""
        return self._around(Piece(_TEXT))

    @functools.cached_property
    def around_thinking(self) -> tuple[bytes, bytes]:
        return self._around(Piece(thinking=_TEXT))

    def _around(self, piece: Piece) -> tuple[bytes, bytes]:
        before, _, after = self.chunk("", _TIME, piece).rpartition(_TEXT_MARK)
        return before.rpartition(_TIME_MARK)[2], after


def _chat_chunk(model: str, created_at: str, piece: Piece) -> bytes:
    return _encode(ChatChunk(model, created_at, _message(piece), logprobs=piece.logprobs or UNSET))


def _generate_chunk(model: str, created_at: str, piece: Piece) -> bytes:
    chunk = GenerateChunk(model, created_at, piece.text, piece.thinking or UNSET, logprobs=piece.logprobs or UNSET)
    return _encode(chunk)


def _message(piece: Piece) -> ReplyMessage:
    return ReplyMessage("assistant", piece.text, piece.thinking or UNSET, piece.tool_calls or UNSET)


def _generate_texts(piece: Piece) -> dict[str, Any]:
    return {"response": piece.text} | ({"thinking": piece.thinking} if piece.thinking else {})


def _chat_texts(piece: Piece) -> dict[str, Any]:
    return {"message": _message(piece)}


CHAT = Shape(_chat_chunk, _chat_texts, logprobs_last=False, rendered={"message": {"role": "", "content": ""}})
GENERATE = Shape(_generate_chunk, _generate_texts, logprobs_last=True, rendered={"response": ""})
