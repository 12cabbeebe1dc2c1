"""An engine's events on their way through: the shortcut for plain tokens changes nothing but the cost."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from vllama.errors import ApiError, EngineGoneError
from vllama.routes._relay import Reply, _Events
from vllama.routes._stream import Pipe
from vllama.streams import Outlet
from vllama.translate.openai_reply import ChatReply, Renamed
from vllama.translate.response_reply import ResponseReply
from vllama.translate.shortcut import Express, Plain


class Pieces:
    """An engine's reply that comes in these pieces. expressed: of which nothing had to be read."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter([*pieces, b""])
        self.express: Express | None = None
        self.is_whole = False
        self.expressed = 0

    async def next(self) -> bytes:
        return next(self._pieces)

    async def pour(self, take: Callable[[bytes], Awaitable[None] | None]) -> None:
        for piece in self._pieces:
            if piece and self.express is not None and self.express(piece):
                self.expressed += 1
            elif piece:
                assert take(piece) is None


async def relayed(response: Pieces, reply: Reply) -> tuple[bytes, str]:
    """What goes out, and the error that ends it."""
    sent: list[bytes] = []

    def write(data: bytes) -> bool:
        sent.append(data)
        return True

    pipe = Pipe(response, _Events(reply))  # type: ignore[arg-type]
    try:
        sent.append(await pipe.first())
        await pipe.rest(Outlet(mock.AsyncMock(), write))
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
RUNS = st.lists(st.tuples(st.integers(0, 5), st.lists(TEXTS, min_size=2, max_size=6)), min_size=2, max_size=5)
"""Texts that come one after the other in events of the same kind."""

EXTRAS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.sampled_from(["stop", "length"]).map(lambda reason: {"finish_reason": reason, "stop_reason": None}),
    TEXTS.map(lambda text: {"logprobs": {"content": [{"token": text, "logprob": -1.50}]}}),
    st.integers(0, 2).map(lambda token: {"token_ids": [token]}),
)


def delta(kind: int, text: str) -> dict[str, Any]:
    match kind:
        case 0:
            return {"reasoning": text}
        case 1:
            return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        case 2:
            return {"role": "assistant", "content": text, "reasoning": text}
    return {"content": text} if text != "[DONE]" else {}


def written(value: Any, *, ascii_only: bool) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only)
    return b"data: " + text.encode("utf-8", "surrogatepass")


@st.composite
def chats(draw: st.DrawFn) -> list[bytes]:
    """Chunks of chats, which those of transcripts are like."""
    ascii_only, counts, several = draw(st.integers(0, 3)) == 3, draw(st.integers(0, 5)) == 5, draw(st.booleans())
    events: list[bytes] = []
    for kind, texts in draw(RUNS):
        index, extra = draw(st.integers(0, several)), draw(EXTRAS)
        for number, text in enumerate(texts):
            choice = {"index": index, "delta": delta(kind, text), "logprobs": None, "finish_reason": None}
            chunk = {
                "id": "chatcmpl-1",
                "created": 1795259120,
                "model": "theirs",
                "choices": [choice | (extra if number == 2 else {})],
            }
            usage = {"usage": {"prompt_tokens": 9, "completion_tokens": len(events)}} if counts else {}
            events.append(written(chunk | usage, ascii_only=ascii_only))
    return [*events, *draw(st.lists(st.sampled_from(ENDS), max_size=3))]


@st.composite
def completions(draw: st.DrawFn) -> list[bytes]:
    ascii_only, events = draw(st.integers(0, 3)) == 3, []
    for index, texts in draw(RUNS):
        extra = draw(EXTRAS)
        for number, text in enumerate(texts):
            choice = {"index": min(index, 1), "text": text, "finish_reason": None} | (extra if number == 2 else {})
            events.append(written({"id": "cmpl-1", "model": "theirs", "choices": [choice]}, ascii_only=ascii_only))
    return [*events, *draw(st.lists(st.sampled_from(ENDS), max_size=3))]


MESSAGE = {"type": "response.output_item.added", "item": {"type": "message", "content": []}}
DONE = {"type": "response.output_item.done", "item": {"type": "message", "content": []}}
CREATED = {"type": "response.created", "response": {"id": "resp_1"}}
KINDS = ["reasoning_text", "function_call_arguments", *["output_text"] * 4]


@st.composite
def responses(draw: st.DrawFn) -> list[bytes]:
    ascii_only = draw(st.integers(0, 3)) == 3
    values: list[dict[str, Any]] = []
    for kind, texts in draw(RUNS):
        at = {"item_id": f"item_{kind}", "content_index": 0, "type": f"response.{KINDS[kind]}.delta"}
        values += draw(st.lists(st.sampled_from([MESSAGE, DONE, CREATED]), max_size=2))
        values += [{"delta": text, **at} for text in texts]
    events = [
        f"event: {value['type']}\n".encode()
        + written(value | {"output_index": 1, "sequence_number": number}, ascii_only=ascii_only)
        for number, value in enumerate(values)
    ]
    return [*events, *draw(st.lists(st.sampled_from(ENDS), max_size=2))]


def cut(data: st.DataObject, events: list[bytes]) -> list[bytes]:
    """Each event alone, but for some cuts that are missing, and some others."""
    whole = b"".join(event + b"\n\n" for event in events)
    between = set(itertools.accumulate(len(event) + 2 for event in events))
    moved = data.draw(st.sets(st.one_of(st.sampled_from(sorted(between)), st.integers(0, len(whole))), max_size=6))
    places = sorted(between ^ moved)
    return [whole[start:stop] for start, stop in zip([0, *places], [*places, len(whole)], strict=True) if start < stop]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


@pytest.mark.parametrize(
    ("streams", "reply"),
    [
        (chats(), lambda: ChatReply("Demo")),
        (chats(), lambda: Renamed("Demo")),
        (completions(), lambda: Renamed("Demo", system_fingerprint="fp")),
        (responses(), lambda: ResponseReply("Demo")),
    ],
    ids=["chats", "transcripts", "completions", "responses"],
)
def test_the_shortcut_changes_nothing(
    streams: st.SearchStrategy[list[bytes]], reply: Callable[[], Reply], runner: asyncio.Runner
) -> None:
    taken = expressed = 0

    @examples(40)
    @given(streams, st.data())
    def check(events: list[bytes], data: st.DataObject) -> None:
        nonlocal expressed
        find = Plain.find

        def counting(plain: Plain, block: bytes) -> tuple[str, bytes] | None:
            nonlocal taken
            found = find(plain, block)
            taken += found is not None
            return found

        pieces = cut(data, events)
        response = Pieces(pieces)
        with mock.patch.object(Plain, "find", counting):
            shortened = runner.run(relayed(response, reply()))
        expressed += response.expressed
        with mock.patch.object(Plain, "find", mock.Mock(return_value=None)):
            assert shortened == runner.run(relayed(Pieces([b"".join(pieces)]), reply()))

    check()
    assert taken > 20
    assert expressed > 20 or isinstance(reply(), ResponseReply), "whose events are numbered"


@pytest.mark.parametrize(
    ("reply", "event"),
    [
        (ChatReply("Demo"), {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}),
        (ChatReply("Demo"), {"choices": [{"delta": {"tool_calls": [None]}}]}),
        (ChatReply("Demo"), {"choices": [{"delta": {"reasoning": 5}}]}),
        (ResponseReply("Demo"), {"delta": "a"}),
        (ResponseReply("Demo"), {"type": 5}),
        (ResponseReply("Demo"), {"type": "response.output_text.delta"}),
        (ResponseReply("Demo"), {"type": "response.content_part.added", "part": {"type": "reasoning_text"}}),
        (ResponseReply("Demo"), {"type": "response.output_item.added", "item": "a"}),
    ],
)
async def test_an_event_in_no_known_shape(reply: Reply, event: Any) -> None:
    sent, error = await relayed(Pieces([b": hello\n\n", written(event, ascii_only=False) + b"\n\n"]), reply)
    assert sent == b""
    assert error.startswith("ApiError: the engine's reply cannot be read: ")
