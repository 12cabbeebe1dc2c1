"""A reply's bytes as events, in whatever pieces they come."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_engine import events
from vllama.engine import events as events_module
from vllama.engine.events import Events, data_of
from vllama.errors import EngineError

STREAM = ': ping\n\ndata: {"a": "é👋"}\n\nevent: error\ndata: {\ndata: }\n\ndata: [DONE]\n\n'.encode()
EXPECTED = ['{"a": "é👋"}'.encode(), b"{\n}", b"[DONE]"]


def blocks_of(*pieces: bytes) -> list[bytes]:
    events = Events()
    return [block for piece in pieces for block in events.feed(piece)] + events.close()


def read(*pieces: bytes) -> list[bytes]:
    return [data for block in blocks_of(*pieces) if (data := data_of(block))]


@pytest.mark.parametrize("stream", [STREAM, STREAM.replace(b"\n", b"\r\n")], ids=["lf", "crlf"])
def test_pieces_do_not_matter(stream: bytes) -> None:
    assert read(stream) == EXPECTED
    assert read(*(bytes([byte]) for byte in stream)) == EXPECTED
    for split in range(len(stream) + 1):
        assert read(stream[:split], stream[split:]) == EXPECTED, split


LETTERS = st.sampled_from([b"\r", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"data: x", b":"])


@given(st.lists(LETTERS).map(b"".join), st.lists(st.integers(0, 60)))
def test_no_cutting_matters(stream: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(bounds)]
    assert blocks_of(*pieces) == blocks_of(stream)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []),
        (b"\n\n\n\n", []),
        (b": only a comment\n\n", []),
        (b"data:no blank\n\n", [b"no blank"]),
        (b"data:  two blanks\n\n", [b" two blanks"]),
        (b"id: 7\nretry: 10\ndata: x\n\n", [b"x"]),
        (b": comment\ndata: x\n\n", [b"x"]),
        (b"data: a\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: last, without a blank line", [b"last, without a blank line"]),
        (b"data: last, with half a line's end\r\n\r", [b"last, with half a line's end"]),
        (b"garbage\n\ndata: x\n\n", [b"x"]),
        (b"data: \xff\xfe\n\n", [b"\xff\xfe"]),
    ],
)
def test_forms_of_events(stream: bytes, expected: list[bytes]) -> None:
    assert read(stream) == expected


def test_events_are_given_as_soon_as_they_are_whole() -> None:
    one, two, three = events("1", "2", "3")
    reader = Events()
    assert reader.feed(one + two + three[:-1]) == [b"data: 1", b"data: 2"]
    assert reader.feed(three[-1:]) == [b"data: 3"]
    assert reader.close() == []


def test_an_event_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MAX_EVENT_BYTES", 100)
    assert read(b"data: " + 90 * b"x", b"\n\n") == [90 * b"x"]
    with pytest.raises(EngineError, match="too large"):
        read(b"data: ", 60 * b"x", 60 * b"x", b"\n\n")
