"""Events that are passed on unread become what they would become if they were read."""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.fake_engine import FOLDER
from vllama.errors import ApiError
from vllama.framing import EVENTS, LINES
from vllama.routes import _completions, _generation, anthropic
from vllama.routes._completions import CompletionTranslator
from vllama.translate.anthropic_reply import MessageReply
from vllama.translate.ollama_reply import CHAT, GENERATE, Shape
from vllama.translate.reply import Reply
from vllama.translate.shortcut import Express, Plain
from vllama.translate.think_tags import ThinkTags
from vllama.wire.openai import Usage


class Reader(Plain):
    """Finds no event that need not be read."""

    def find(self, block: bytes) -> None:  # type: ignore[override]
        return None

    def express(self, *_: Any) -> Express:  # type: ignore[override]
        return lambda _data: False


def ollama(shape: Shape, *, tagged: bool = False, framing: Any = LINES) -> CompletionTranslator:
    reply = Reply(ThinkTags() if tagged else None, tools=True, top_logprobs=2)
    return _generation._Chunks(SimpleNamespace(shape=shape, wanted="demo"), reply, framing)  # type: ignore[arg-type]


def message() -> CompletionTranslator:
    return anthropic._Events(MessageReply("demo", tools=True))


TRANSLATORS: dict[str, Callable[[], CompletionTranslator]] = {
    "chat": lambda: ollama(CHAT),
    "chat, as events": lambda: ollama(CHAT, framing=EVENTS),
    "generate": lambda: ollama(GENERATE),
    "generate, tagged": lambda: ollama(GENERATE, tagged=True),
    "message": message,
}
translators = pytest.mark.parametrize("translator", TRANSLATORS.values(), ids=TRANSLATORS)


@pytest.fixture(autouse=True, scope="module")
def still() -> Any:
    """Time stands, and nothing is random."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_generation, "timestamp", lambda: "2026-01-01T00:00:00Z")
        patch.setattr(_generation, "timestamp_bytes", lambda: b"2026-01-01T00:00:00Z")
        patch.setattr(secrets, "token_hex", lambda _size: "0a")
        patch.setattr(secrets, "choice", lambda letters: letters[0])
        yield


@dataclass
class Outcome:
    fed: list[bytes]
    tokens: list[int]
    complete: bool
    finish_reason: str | None
    usage: Usage | None


def outcome(translator: CompletionTranslator, blocks: list[bytes], *, alone: bool = False) -> Outcome:
    """What each of the blocks becomes, up to one that is an error. alone: each is all of a read."""
    fed: list[bytes] = []

    def write(data: bytes) -> bool:
        fed.append(data)
        return True

    for block in blocks:
        if alone and (express := translator.express(write)) is not None and express(block + b"\n\n"):
            continue
        out: list[bytes] = []
        try:
            translator.feed([block], out)
        except ApiError as error:
            fed.append(error.message.encode())
            break
        fed.append(b"".join(out))
    reply = translator._reply
    return Outcome(fed, reply.tokens, translator.complete, reply.finish_reason, reply.usage)


def read_in_full(make: Callable[[], CompletionTranslator], blocks: list[bytes]) -> Outcome:
    translator = make()
    translator._plain = Reader()
    return outcome(translator, blocks)


def assert_alike(make: Callable[[], CompletionTranslator], blocks: list[bytes]) -> None:
    expected = read_in_full(make, blocks)
    assert outcome(make(), blocks) == expected
    assert outcome(make(), blocks, alone=True) == expected


def recorded() -> list[list[bytes]]:
    """The streams of a real engine, as blocks."""
    exchanges = [one for name in ("demo", "plain") for one in json.loads((FOLDER / f"{name}.json").read_text())]
    streamed = [one for one in exchanges if one["content_type"] == "text/event-stream" and "/resp" not in one["path"]]
    return ["".join(one["chunks"]).encode().split(b"\n\n") for one in streamed]


@translators
def test_what_an_engine_said(translator: Callable[[], CompletionTranslator]) -> None:
    for blocks in recorded():
        assert_alike(translator, blocks)


TEXTS = st.lists(st.sampled_from(["a", " ", "\n", '"', "\\", "</think>", "<think>", "ü", "\u2028", "\x00"]), max_size=3)


def compact(choice: dict[str, Any], **more: Any) -> bytes:
    """As vLLM writes it."""
    chunk = {"id": "a", "choices": [{"index": 0} | choice]} | more
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode()


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Any]:
    field = draw(st.sampled_from(["content", "reasoning", "text", "reasoning_content", "role"]))
    text = "".join(draw(TEXTS))
    choice: dict[str, Any] = {"text": text} if field == "text" else {"delta": {field: text}}
    if draw(st.integers(0, 7)) == 7:
        call = {"index": draw(st.integers(0, 1)), "id": "a", "function": {"name": "f", "arguments": "{}"}}
        choice = {"delta": {field: text, "tool_calls": [call]}}
    choice |= draw(st.sampled_from([{}, {}, {"logprobs": None}, {"finish_reason": "length"}]))
    return choice | draw(st.sampled_from([{}, {}, {"token_ids": [7]}, {"token_ids": [7, 11]}, {"token_ids": None}]))


@translators
@examples(40)
@given(choices=st.lists(choices(), max_size=12), is_counted=st.booleans())
def test_whatever_an_engine_says(
    translator: Callable[[], CompletionTranslator], choices: list[dict[str, Any]], is_counted: bool
) -> None:
    usages = [{"usage": {"prompt_tokens": 3, "completion_tokens": 8 + number}} for number in range(len(choices) + 1)]
    ended = [*choices, {"delta": {}, "finish_reason": "stop"}]
    blocks = [compact(choice, **(usage if is_counted else {})) for choice, usage in zip(ended, usages, strict=True)]
    assert_alike(translator, blocks)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("translator", "choice"),
    [
        ("chat", {"delta": {"content": "w"}}),
        ("chat", {"delta": {"reasoning": "w"}}),
        ("chat, as events", {"delta": {"content": "w"}}),
        ("generate", {"delta": {"content": "w"}, "token_ids": [12, 3]}),
        ("generate", {"text": "w", "token_ids": [1234]}),
        ("generate", {"text": "w"}),
        ("message", {"delta": {"content": "w"}}),
        ("message", {"delta": {"reasoning": "w"}}),
    ],
)
def test_plain_tokens_are_not_read(
    monkeypatch: pytest.MonkeyPatch, translator: str, choice: dict[str, Any], alone: bool
) -> None:
    """But for the first one, which shows what they look like."""
    read: list[bytes] = []
    decode = _completions.decode
    monkeypatch.setattr(_completions, "decode", lambda data: read.append(data) or decode(data))
    fed = outcome(TRANSLATORS[translator](), 5 * [compact(choice)], alone=alone).fed
    assert fed[1:] == 4 * [fed[2]]
    assert len(read) == 1


def test_tokens_that_are_counted_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first of them, and the end."""
    read: list[bytes] = []
    decode = _completions.decode
    monkeypatch.setattr(_completions, "decode", lambda data: read.append(data) or decode(data))
    usages = [{"prompt_tokens": 3, "completion_tokens": number} for number in range(8, 13)]
    blocks = [compact({"delta": {"content": "w"}}, usage=usage) for usage in usages[:-1]]
    end = compact({"delta": {}, "finish_reason": "stop"}, usage=usages[-1])
    result = outcome(message(), [*blocks, end])
    assert result.usage == Usage(3, 12)
    assert len(read) == 2
    assert result == read_in_full(message, [*blocks, end])


def test_time_does_not_go_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between an event that was read and the next one, which came with it."""
    times = (f"2026-01-01T00:00:{second:02}Z" for second in range(60))
    monkeypatch.setattr(_generation, "timestamp", lambda: next(times))
    monkeypatch.setattr(_generation, "timestamp_bytes", lambda: next(times).encode())
    text, call = compact({"delta": {"content": "w"}}), compact({"delta": {"role": "assistant", "content": "w"}})
    out: list[bytes] = []
    ollama(CHAT).feed([text, text, call, text, text], out)
    written = [json.loads(line)["created_at"] for line in b"".join(out).splitlines()]
    assert len(written) == 5
    assert written == sorted(written)
