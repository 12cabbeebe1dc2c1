"""The engine's replies to OpenAI's requests for responses, as Ollama's clients expect them.

Thinking goes out as Ollama sends it: as a reasoning item's summary, and as its `encrypted_content`, which clients send
back unread.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from vllama.translate.openai_messages import Object, joined
from vllama.translate.shortcut import Express, Rewritten, Write
from vllama.translate.spacing import Trimmer

_ECHO: Object = {"metadata": {}, "text": {"format": {"type": "text"}}, "store": False}
"""What a response says that was asked for, where the engine says nothing: no client asked for anything else."""
_ANSWERS = "response.output_text.delta"
_THINKS = "response.reasoning_text.delta"
_SUMMARY_EVENTS = {
    _THINKS: "response.reasoning_summary_text.delta",
    "response.reasoning_text.done": "response.reasoning_summary_text.done",
    "response.content_part.added": "response.reasoning_summary_part.added",
    "response.content_part.done": "response.reasoning_summary_part.done",
}
_NUMBER = b'"sequence_number":'
_NUMBERED_LAST = re.compile(rb'.*"delta"\s*:.*"sequence_number":\s*\d+\D*', re.DOTALL).fullmatch
"""An event whose number is behind its text, with no other behind it that may count up, too."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class ResponseReply:
    """Makes the engine's reply to one request, whole or streamed, what Ollama's clients expect.

    A message that is nothing but the white space after a model's thinking is left out, so events are numbered anew.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._trimmer = Trimmer()
        self._plain = Rewritten(_NUMBER)
        self._kind = ""  # of the event that was learned
        self._after = b"", b""  # what stands before its number, and behind it
        self._held: list[Object] = []  # announces a message that has said nothing yet
        self._left_out = 0
        self._sent = 0
        self._last: Object = {}

    def whole(self, data: bytes) -> bytes:
        return _encode(self._tidy_response(_decode(data)))

    def shortcut(self, block: bytes) -> Iterable[bytes] | None:
        """What a plain event becomes, in pieces; None for one that must be read."""
        if (found := self._plain.find(block)) is None or not self._passes(raw := found[1]):
            return None
        before, after = self._after
        number = self._sent
        self._sent += 1
        return self._plain.before, raw, before, b"%d" % number, after

    def express(self, _write: Write) -> Express | None:
        """None: each has another number."""
        return None

    def event(self, block: bytes, data: bytes) -> bytes:
        """The events for an event's data, as a stream has them; empty where nothing is left to say."""
        event = _decode(data)
        kind, text = event["type"], event.get("delta")
        made = [self._written(adapted) for adapted in self._adapted(event)]
        if len(made) == 1 and isinstance(text, str) and "response" not in event:
            self._learn(block, made[0], kind, text)
        return b"".join(made)

    def _learn(self, block: bytes, made: bytes, kind: str, text: str) -> None:
        if _NUMBERED_LAST(block) and self._plain.learn_pair(block, made, "delta", text):
            head, mark, rest = self._plain.after.rpartition(_NUMBER)
            self._after = head + mark, rest.lstrip(b"0123456789")
            self._kind = kind

    def _passes(self, raw: bytes) -> bool:
        """Whether a text of the kind that was learned is not trimmed, and nothing is to be said before it."""
        if self._kind == _ANSWERS:
            return self._trimmer.answering and not self._held
        return self._trimmer.thinks_on(raw) if self._kind == _THINKS else not self._held

    def failure(self, message: str) -> bytes:
        """What ends a stream that cannot go on: the error, and the response that failed of it."""
        error = {"code": "server_error", "message": message}
        events: list[Object] = [{"type": "error", **error, "param": None, "error": error}]
        if self._last:
            events.append({"type": "response.failed", "response": self._last | {"status": "failed", "error": error}})
        return b"".join(self._written(event) for event in events)

    def _written(self, event: Object) -> bytes:
        event["sequence_number"] = self._sent
        self._sent += 1
        if "output_index" in event:
            event["output_index"] -= self._left_out
        return f"event: {event['type']}\ndata: ".encode() + _encode(event) + b"\n\n"

    def _adapted(self, event: Object) -> list[Object]:
        if isinstance(event.get("response"), dict):
            self._last = event["response"] = self._tidy_response(event["response"])
            return [event]
        subject = event.get("item") or event.get("part") or {}
        match event["type"].rpartition(".")[2], subject.get("type"):
            case _, "reasoning" | "reasoning_text":
                return [self._reasoning_event(event)]
            case "added", "message" | "output_text":
                self._held.append(event)
                return []
            case "done", "message" if self._held:
                self._held.clear()
                self._left_out += 1
                self._plain.forget()
                return []
        if event["type"].startswith("response.reasoning_text."):
            return self._thinking(event)
        if event["type"] == _ANSWERS:
            event["delta"] = self._trimmer.answer(event["delta"])
            return [*self._released(), event] if event["delta"] else []
        if self._held and event["type"] in ("response.output_text.done", "response.content_part.done"):
            return []
        return [*self._released(), _trimmed_end(event)]

    def _released(self) -> list[Object]:
        held, self._held = self._held, []
        return held

    def _thinking(self, event: Object) -> list[Object]:
        if "delta" in event:
            event["delta"] = self._trimmer.thinking(event["delta"])
            if not event["delta"]:
                return []
        else:
            event["text"] = event["text"].strip()
        return [_as_summary(event)]

    def _reasoning_event(self, event: Object) -> Object:
        if "item" in event:
            return event | {"item": _tidy_item(event["item"])}
        return _as_summary(event | {"part": {"type": "summary_text", "text": event["part"]["text"].strip()}})

    def _tidy_response(self, response: Object) -> Object:
        items = [_tidy_item(item) for item in response.get("output") or ()]
        output = [item for item in items if item.get("type") != "message" or item["content"]]
        echo = {name: value for name, value in _ECHO.items() if response.get(name) is None}
        # Ollama's words for a request without tools.
        choice = {} if response.get("tools") else {"tool_choice": "auto"}
        return response | echo | choice | {"model": self._model, "output": output, "service_tier": "default"}


def _as_summary(event: Object) -> Object:
    index = event.pop("content_index", 0)
    return event | {"type": _SUMMARY_EVENTS[event["type"]], "summary_index": index}


def _tidy_item(item: Object) -> Object:
    if item.get("type") == "reasoning":
        if not (text := joined(item.pop("content", None)).strip()):
            return {"summary": [], "encrypted_content": None} | item
        return item | {"summary": [{"type": "summary_text", "text": text}], "encrypted_content": text}
    if item.get("type") == "message":
        parts = [_trimmed_part(part) for part in item["content"]]
        return item | {"content": [part for part in parts if part.get("text", "-")]}
    return item


def _trimmed_end(event: Object) -> Object:
    """The event that repeats what a message or its part has said."""
    if isinstance(event.get("item"), dict):
        return event | {"item": _tidy_item(event["item"])}
    if isinstance(event.get("part"), dict):
        return event | {"part": _trimmed_part(event["part"])}
    if event["type"] == "response.output_text.done":
        return _trimmed_part(event)
    return event


def _trimmed_part(part: Object) -> Object:
    return part | {"text": part["text"].lstrip()} if isinstance(part.get("text"), str) else part
