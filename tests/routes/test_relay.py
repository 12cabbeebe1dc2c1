"""An engine's events on their way through: the shortcut for plain tokens changes nothing but the cost."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama.errors import ApiError, EngineGoneError
from vllama.routes._relay import Reply, _Events
from vllama.routes._stream import Pipe
from vllama.streams import Outlet
from vllama.translate.openai_reply import ChatReply, Renamed
from vllama.translate.response_reply import ResponseReply
from vllama.translate.shortcut import Plain


class Pieces:
    """An engine's reply that comes in these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter([*pieces, b""])

    async def next(self) -> bytes:
        return next(self._pieces)

    async def pour(self, take: Callable[[bytes], Awaitable[None] | None]) -> None:
        for piece in self._pieces:
            if piece:
                assert take(piece) is None


async def relayed(pieces: list[bytes], reply: Reply) -> tuple[bytes, str]:
    """What goes out, and the error that ends it."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message["body"])

    pipe = Pipe(Pieces(pieces), _Events(reply))  # type: ignore[arg-type]
    try:
        sent.append(await pipe.first())
        await pipe.rest(Outlet(send))
    except (ApiError, EngineGoneError) as error:
        return b"".join(sent), f"{type(error).__name__}: {error}"
    return b"".join(sent), ""


# Streams in the engine's shapes

PIECES = [
    "a",
    " b",
    "é",
    "🎉",
    '"',
    "\\",
    "\n",
    "\t",
    "\x00",
    "\x7f",
    "\u3000",
    " ",
    "",
    "{}",
    "data: ",
    '"error"',
    "[DONE]",
]
TEXTS = st.one_of(
    st.sampled_from(["a", " b", "\n", "\n\n", "c ", ""]),
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    st.text(max_size=6),
)
ENDS = [b"data: [DONE]", b": ping", b"data: garbage", b'data: {"error":{"message":"out of memory","code":500}}']
DELTAS = st.one_of(
    *[TEXTS.map(lambda text: {"content": text})] * 4,
    *[TEXTS.map(lambda text: {"reasoning": text})] * 3,
    st.builds(dict, content=TEXTS, reasoning=TEXTS),
    TEXTS.map(lambda text: {"role": "assistant", "content": text}),
    TEXTS.map(lambda text: {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
    st.just({}),
)
EXTRAS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    *[st.just({})] * 6,
    st.sampled_from(["stop", "length"]).map(lambda reason: {"finish_reason": reason, "stop_reason": None}),
    TEXTS.map(lambda text: {"logprobs": {"content": [{"token": text, "logprob": -1.50}]}}),
    st.integers(0, 2).map(lambda token: {"token_ids": [token]}),
)


def written(value: Any, *, ascii_only: bool) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only)
    return b"data: " + text.encode("utf-8", "surrogatepass")


@st.composite
def chats(draw: st.DrawFn) -> list[bytes]:
    """Chunks of chats or, for what has no delta, of completions and transcripts."""
    ascii_only, counts, choices = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([0, 0, 0, 1]))
    events = []
    for number, delta in enumerate(draw(st.lists(DELTAS, min_size=3, max_size=14))):
        choice = {"index": draw(st.integers(0, choices)), "delta": delta, "logprobs": None, "finish_reason": None}
        chunk = {"id": "chatcmpl-1", "created": 1795259120, "model": "theirs", "choices": [choice | draw(EXTRAS)]}
        usage = {"usage": {"prompt_tokens": 9, "completion_tokens": number}} if counts else {}
        events.append(written(chunk | usage, ascii_only=ascii_only))
    return [*events, *draw(st.lists(st.sampled_from(ENDS), max_size=3))]


@st.composite
def completions(draw: st.DrawFn) -> list[bytes]:
    events = []
    for text in draw(st.lists(TEXTS, min_size=3, max_size=12)):
        choice = {"index": draw(st.sampled_from([0, 0, 0, 1])), "text": text, "finish_reason": None} | draw(EXTRAS)
        events.append(written({"id": "cmpl-1", "model": "theirs", "choices": [choice]}, ascii_only=draw(st.booleans())))
    return [*events, *draw(st.lists(st.sampled_from(ENDS), max_size=3))]


@st.composite
def responses(draw: st.DrawFn) -> list[bytes]:
    ascii_only = draw(st.booleans())
    message = {"type": "response.output_item.added", "item": {"type": "message", "content": []}}
    done = {"type": "response.output_item.done", "item": {"type": "message", "content": []}}
    kinds = ["reasoning_text", "output_text", "output_text", "function_call_arguments"]
    values = draw(
        st.lists(
            st.one_of(
                *[st.tuples(st.sampled_from(kinds), TEXTS)] * 6,
                st.sampled_from([message, done, {"type": "response.created", "response": {"id": "resp_1"}}]),
            ),
            min_size=3, max_size=14,
        )
    )  # fmt: skip
    events, kind = [], "output_text"
    for number, value in enumerate(values):
        if isinstance(value, tuple):
            kind, text = (value[0] if draw(st.booleans()) else kind), value[1]
            at = {"item_id": f"{kind[:3]}_1", "output_index": 1, "sequence_number": number}
            value = {"content_index": 0, "delta": text, **at, "type": f"response.{kind}.delta"}
        event = written({"output_index": 1} | value, ascii_only=ascii_only)
        events.append(f"event: {value['type']}\n".encode() + event)
    return [*events, *draw(st.lists(st.sampled_from(ENDS), max_size=2))]


def cut(data: st.DataObject, events: list[bytes]) -> list[bytes]:
    whole = b"".join(event + b"\n\n" for event in events)
    places = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    return [whole[start:stop] for start, stop in zip([0, *places], [*places, len(whole)], strict=True) if start < stop]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


@pytest.mark.parametrize(
    ("streams", "reply", "least"),
    [
        (chats(), lambda: ChatReply("Demo"), 150),
        (chats(), lambda: Renamed("Demo"), 150),
        (completions(), lambda: Renamed("Demo", system_fingerprint="fp"), 150),
        (responses(), lambda: ResponseReply("Demo"), 150),
    ],
    ids=["chats", "transcripts", "completions", "responses"],
)
def test_the_shortcut_changes_nothing(
    streams: st.SearchStrategy[list[bytes]], reply: Callable[[], Reply], least: int, runner: asyncio.Runner
) -> None:
    taken = 0

    @settings(max_examples=150, derandomize=True, database=None, deadline=None)
    @given(streams, st.data())
    def check(events: list[bytes], data: st.DataObject) -> None:
        nonlocal taken
        find = Plain.find

        def counting(plain: Plain, block: bytes) -> tuple[str, bytes] | None:
            nonlocal taken
            found = find(plain, block)
            taken += found is not None
            return found

        pieces = cut(data, events)
        with mock.patch.object(Plain, "find", counting):
            shortened = runner.run(relayed(pieces, reply()))
        with mock.patch.object(Plain, "find", return_value=None):
            assert shortened == runner.run(relayed([b"".join(pieces)], reply()))

    check()
    assert taken > least
