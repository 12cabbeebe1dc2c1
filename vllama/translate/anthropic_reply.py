"""The engine's replies, whole or streamed, as Anthropic's messages and events."""

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from vllama.translate.reply import Piece, Reply
from vllama.wire.ollama import ToolCall
from vllama.wire.openai import Completion

Object = dict[str, Any]
Event = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_FIELDS = {"thinking": "reasoning", "text": "content"}
"""What `only_text` names, by the kind of block that it goes into."""
_TEXT = "\x01"
"""Stands for a delta's text; in JSON it is escaped."""
_MARK = _encode(_TEXT)[1:-1]


def encode_event(event: Event) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _encode(event))


class MessageReply:
    """One reply: fed with the engine's, it returns Anthropic's.

    model: the client's name for it. stop_sequences: the client's; a Modelfile's own are nobody's concern.
    tools: whether any were offered.
    frames: what surrounds a delta that can be written now, where it is of a field that `only_text` names.
    """

    def __init__(self, model: str, stop_sequences: Sequence[str] = (), *, tools: bool = False) -> None:
        self._model = model
        self._stop_sequences = stop_sequences
        self.reply = Reply(tools=tools)
        self.frames: dict[str, tuple[bytes, bytes]] = {}
        self._matched: str | None = None
        self._called = False
        self._begun = False
        self._block = -1
        self._open = ""

    @property
    def finished(self) -> bool:
        """Whether the engine brought the reply to an end."""
        return self.reply.finish_reason not in (None, "abort")

    def whole(self, completion: Completion) -> Object:
        """The message that a whole reply is."""
        piece = self._read(completion) or Piece()
        content: list[Object] = []
        if piece.thinking:
            content.append(_empty_block("thinking") | {"thinking": piece.thinking})
        if piece.text:
            content.append(_empty_block("text") | {"text": piece.text})
        content += [_tool_block(call) | {"input": call.function.arguments} for call in piece.tool_calls]
        return self._message(content) | self._ending() | {"usage": self._usage()}

    def feed(self, completion: Completion) -> list[Event]:
        """The events that an event of the engine's becomes."""
        piece = self._read(completion)
        return self._begin() + (self._add(piece) if piece else [])

    def close(self) -> list[Event]:
        """The events that end the stream of a finished reply."""
        return [
            *self._close_block(),
            {"type": "message_delta", "delta": self._ending(), "usage": self._usage()},
            {"type": "message_stop"},
        ]

    def _read(self, completion: Completion) -> Piece | None:
        piece = self.reply.feed(completion)
        if completion.choices and (matched := completion.choices[0].stop_reason) in self._stop_sequences:
            self._matched = str(matched)
        self._called = self._called or bool(piece and piece.tool_calls)
        return piece

    def _begin(self) -> list[Event]:
        if self._begun:
            return []
        self._begun = True
        nothing = {"stop_reason": None, "stop_sequence": None}
        return [{"type": "message_start", "message": self._message([]) | nothing | {"usage": self._usage()}}]

    def _message(self, content: list[Object]) -> Object:
        identifier = f"msg_{secrets.token_hex(12)}"
        return {"id": identifier, "type": "message", "role": "assistant", "model": self._model, "content": content}

    def _usage(self) -> Object:
        usage = self.reply.usage
        return {
            "input_tokens": usage.prompt_tokens if usage else 0,
            "output_tokens": (usage.completion_tokens or 0) if usage else 0,
        }

    def _ending(self) -> Object:
        if self.reply.finish_reason == "length":
            reason = "max_tokens"
        elif self._called:
            reason = "tool_use"
        else:
            reason = "end_turn" if self._matched is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": self._matched if reason == "stop_sequence" else None}

    def _add(self, piece: Piece) -> list[Event]:
        events: list[Event] = []
        if piece.thinking:
            events += self._write("thinking", piece.thinking)
        if piece.text:
            events += self._write("text", piece.text)
        for call in piece.tool_calls:
            arguments = _encode(call.function.arguments).decode()
            events += self._open_block(_tool_block(call))
            events.append(self._delta({"type": "input_json_delta", "partial_json": arguments}))
        return events

    def _write(self, kind: str, text: str) -> list[Event]:
        """A text in a block of that kind, which goes on where one is open."""
        if self._open == kind:
            return [self._text_delta(kind, text)]
        opened = self._open_block(_empty_block(kind))
        before, _, after = encode_event(self._text_delta(kind, _TEXT)).rpartition(_MARK)
        self.frames[_FIELDS[kind]] = before, after
        return [*opened, self._text_delta(kind, text)]

    def _text_delta(self, kind: str, text: str) -> Event:
        return self._delta({"type": f"{kind}_delta", kind: text})

    def _delta(self, delta: Object) -> Event:
        return {"type": "content_block_delta", "index": self._block, "delta": delta}

    def _open_block(self, block: Object) -> list[Event]:
        closed = self._close_block()
        self._block += 1
        self._open = block["type"]
        return [*closed, {"type": "content_block_start", "index": self._block, "content_block": block}]

    def _close_block(self) -> list[Event]:
        if not self._open:
            return []
        self._open = ""
        self.frames.clear()
        return [{"type": "content_block_stop", "index": self._block}]


def _empty_block(kind: str) -> Object:
    # No signature: nothing here checks that thinking comes back as it was. Clients expect the member.
    return {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})


def _tool_block(call: ToolCall) -> Object:
    return {"type": "tool_use", "id": call.id, "name": call.function.name, "input": {}}
