"""The engine's replies to OpenAI's requests for chats and completions, as Ollama's clients expect them.

The engine speaks OpenAI's protocol itself. What is not looked at here goes out as it came.
"""

import secrets
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from vllama.translate.openai_messages import Object
from vllama.translate.shortcut import Express, Rewritten, Write, text_of
from vllama.translate.spacing import Trimmer

FINGERPRINT = "fp_ollama"
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

_OF_TOKENS = ("logprobs", "token_ids")
_NULL = Raw(b"null")
_NOTHING = (_NULL, Raw(b"[]"), Raw(b"{}"))

_decode = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_choices = msgspec.json.Decoder(list[dict[str, Raw]] | None).decode
_decode_object = msgspec.json.Decoder(dict[str, Any] | None).decode
_encode = msgspec.json.Encoder().encode


def load_reply(model: str, created: int) -> Object:
    """What an empty prompt is answered, which only loads the model."""
    return {
        "id": f"cmpl-{secrets.token_hex(8)}",
        "object": "text_completion",
        "created": created,
        "model": model,
        "system_fingerprint": FINGERPRINT,
        "choices": [{"text": "", "index": 0, "finish_reason": "load"}],
    }


class Renamed:
    """The engine's replies to one request, with other members of their own. more: set beside `model`."""

    def __init__(self, model: str, **more: str) -> None:
        self._members = {name: Raw(_encode(value)) for name, value in {"model": model, **more}.items()}
        self._plain = Rewritten()

    def whole(self, data: bytes) -> bytes:
        try:
            return self._rename(data)
        except msgspec.DecodeError:
            return data  # a plain text, for one

    def shortcut(self, block: bytes) -> Iterable[bytes] | None:
        """What a plain event becomes, in pieces; None for one that must be read."""
        if (found := self._plain.find(block)) is None:
            return None
        return self._plain.before, found[1], self._plain.after

    def express(self, write: Write) -> Express | None:
        """What passes on plain events that come alone, as long as no other comes between."""
        return self._plain.rewrite(write)

    def event(self, block: bytes, data: bytes) -> bytes:
        """What an event becomes."""
        head = b"".join(line + b"\n" for line in block.split(b"\n") if not line.startswith(b"data:"))
        made = head + b"data: " + self._rename(data) + b"\n\n"
        if self._plain.learns:
            self._learn(block, made)
        return made

    def _rename(self, data: bytes) -> bytes:
        members = _decode(data)
        return _encode(members | self._members) if "model" in members else data

    def _learn(self, block: bytes, made: bytes) -> None:
        # Whatever else the event says: nothing but its own members is looked at, a text in it passes as it is.
        for field in ("text", "content"):
            if (text := text_of(block, field)) is not None:
                self._plain.learn_pair(block, made, field, text)


class ChatReply:
    """Makes the engine's replies to one chat, whole or streamed, what Ollama's clients expect."""

    def __init__(self, model: str) -> None:
        self._common = {"model": Raw(_encode(model)), "system_fingerprint": Raw(_encode(FINGERPRINT))}
        self._trimmers: defaultdict[bytes, Trimmer] = defaultdict(Trimmer)
        self._plain = Rewritten()
        self._trimmer = Trimmer()  # of the choice whose text was learned

    def whole(self, data: bytes) -> bytes:
        reply: Object = _decode(data) | self._common
        if choices := _choices(reply):
            reply["choices"] = [self._whole_choice(choice) for choice in choices]
        return _encode(reply)

    def shortcut(self, block: bytes) -> Iterable[bytes] | None:
        """What a plain event becomes, in pieces; None for one that must be read."""
        if (found := self._plain.find(block)) is None:
            return None
        field, raw = found
        if not (self._trimmer.answering if field == "content" else self._trimmer.thinks_on(raw)):
            return None
        return self._plain.before, raw, self._plain.after

    def express(self, write: Write) -> Express | None:
        """What passes on plain events that come alone, as long as no other comes between."""
        answers = self._plain.field == "content" and self._trimmer.answering
        return self._plain.rewrite(write) if answers else None

    def event(self, block: bytes, data: bytes) -> bytes:
        """What an event becomes, empty where nothing is left to say."""
        chunk: Object = _decode(data) | self._common
        if not (choices := _choices(chunk)):
            return _event(chunk)
        made = [_event(chunk | {"choices": [part]}) for choice in choices for part in self._parts(choice)]
        if len(choices) == len(made) == 1:
            self._learn(block, made[0], choices[0])
        return b"".join(made)

    def _learn(self, block: bytes, made: bytes, choice: Object) -> None:
        """choice: as the engine sent it."""
        delta = _decode_object(choice.get("delta", _NULL)) if self._plain.learns else None
        if not delta or len(delta) != 1:
            return
        ((field, text),) = delta.items()
        if field in ("content", "reasoning") and text and self._plain.learn_pair(block, made, field, text):
            self._trimmer = self._trimmers[_index(choice)]

    def _whole_choice(self, choice: Object) -> Object:
        message = _decode_object(choice.get("message", _NULL)) or {}
        self._tidy(message, choice)
        message["content"] = message.get("content") or ""
        for index, call in enumerate(message.get("tool_calls") or ()):
            call["index"] = index
        return choice | {"message": message}

    def _parts(self, choice: Object) -> list[Object]:
        """What a choice adds, if anything, and its end, which the engine may put together with it."""
        delta = _decode_object(choice.get("delta", _NULL))
        if not delta:
            return [choice]
        says_something = self._says_something(delta, choice)
        choice = choice | {"delta": delta}
        if choice.get("finish_reason", _NULL) == _NULL:
            return [choice] if says_something else []
        end = {name: value for name, value in choice.items() if name not in _OF_TOKENS} | {"delta": {}}
        text = {name: value for name, value in choice.items() if name != "stop_reason"} | {"finish_reason": None}
        return [text, end] if says_something else [end]

    def _says_something(self, delta: Object, choice: Object) -> bool:
        self._tidy(delta, choice)
        if delta.get("content") is None:
            delta["content"] = ""
        for call in delta.get("tool_calls") or ():
            call["function"].setdefault("arguments", "")
        return bool(
            delta.get("reasoning") or delta["content"] or len(delta) > 1
            or any(choice.get(name, _NULL) not in _NOTHING for name in _OF_TOKENS)
        )  # fmt: skip

    def _tidy(self, message: Object, choice: Object) -> None:
        trimmer = self._trimmers[_index(choice)]
        # The second one is what other servers call it; some say both.
        names = ("reasoning", "reasoning_content")
        if thinking := next(filter(None, [message.pop(name, None) for name in names]), None):
            message["reasoning"] = trimmer.thinking(thinking)
            if not message["reasoning"]:
                del message["reasoning"]
        if content := message.get("content"):
            message["content"] = trimmer.answer(content)


def _choices(reply: Object) -> list[Object] | None:
    choices: list[Object] | None = _decode_choices(reply.get("choices", _NULL))
    return choices


def _index(choice: Object) -> bytes:
    return bytes(choice.get("index", _NULL))


def _event(chunk: Object) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"
