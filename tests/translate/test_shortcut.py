"""Texts of events that are alike, found without reading the events."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.fake_engine import FOLDER
from vllama.translate.shortcut import Dated, Plain, Rewritten, surroundings, text_of

COUNTS = b',"usage":{'


def chunk(**members: Any) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": None, "token_ids": None} | members
    return {"id": "chatcmpl-1", "created": 1795259120, "model": "demo:latest", "choices": [choice]}


def block(value: Any, **how: Any) -> bytes:
    return b"data: " + json.dumps(value, **({"separators": (",", ":"), "ensure_ascii": False} | how)).encode(
        "utf-8", "surrogatepass"
    )


def content(text: str, **how: Any) -> bytes:
    return block(chunk(delta={"content": text}), **how)


def learned(text: str = "Hello", **how: Any) -> Plain:
    plain = Plain()
    plain.learn(content(text, **how), "content", text)
    return plain


def read(event: bytes) -> tuple[str, str] | None:
    """What an event says in full: its field and text, None where it is not plain."""
    try:
        value = msgspec.json.decode(event.removeprefix(b"data: "))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    match value:
        case {"choices": [{"delta": {"content": str(text), **rest}}]} if not rest:
            return "content", text
        case {"choices": [{"delta": {"reasoning": str(text), **rest}}]} if not rest:
            return "reasoning", text
        case {"choices": [{"text": str(text)}]}:
            return "text", text
    return None


@pytest.mark.parametrize(
    "text",
    [" world", "a", "\n", '"', "\\", "\\\\", '\\"', "\t\r\b\f", "é", "世界", "🎉", "\u2028", "\x7f", "/", "{}", "},"],
)
def test_a_text(text: str) -> None:
    raw = json.dumps(text, ensure_ascii=False)[1:-1].encode()
    assert learned().find(content(text)) == ("content", raw)


@pytest.mark.parametrize("text", ["", "\x00", "\x1f", "\ud83d"])
def test_a_text_that_is_to_be_read(text: str) -> None:
    assert learned().find(content(text, ensure_ascii=True)) is None


def test_escapes_that_need_not_be_are_to_be_read() -> None:
    plain = learned("é", ensure_ascii=True)
    assert plain.find(content("é", ensure_ascii=True)) is None
    assert plain.find(content("e")) == ("content", b"e")


@pytest.mark.parametrize(
    "inside",
    [
        b'a"b', b"a\\", b"a\\\\\\", b'a\\\\"', b"a\nb", b"a\x01", b"\xff", b"\xed\xa0\x80", b"\\x", b"\\u12",
        b"\\u0061", b"\\/",
    ],
)  # fmt: skip
def test_what_is_no_string_or_no_usual_one(inside: bytes) -> None:
    assert learned().find(content("HERE").replace(b"HERE", inside)) is None


def test_surroundings_that_overlap_hold_no_text() -> None:
    whole = content("")
    assert learned().find(whole.replace(b'"content":""', b'"content":"')) is None


@pytest.mark.parametrize(
    "other",
    [
        chunk(delta={"content": "x"}, finish_reason="stop"),
        chunk(delta={"content": "x"}, index=1),
        chunk(delta={"content": "x", "role": "assistant"}),
        chunk(delta={"role": "assistant", "content": "x"}),
        chunk(delta={"reasoning": "x"}),
        chunk(delta={"content": None}),
        chunk(delta={"tool_calls": [{"function": {"arguments": '"content":"x"'}}]}),
        chunk(delta={"content": "x"}) | {"id": "chatcmpl-2"},
        chunk(delta={"content": "x"}) | {"error": "x"},
        {"choices": []},
        {"error": {"message": "x"}},
    ],
)
def test_what_differs_in_something_else_is_to_be_read(other: Any) -> None:
    assert learned().find(block(other)) is None


@pytest.mark.parametrize("event", [b"data: [DONE]", b": ping", b"", b"data: ", b"event: x\ndata: {}"])
def test_other_blocks(event: bytes) -> None:
    assert learned().find(event) is None
    assert Plain().find(event) is None


def test_spaces_between_members() -> None:
    plain = learned(separators=(", ", ": "))
    assert plain.find(content(" you", separators=(", ", ": "))) == ("content", b" you")
    assert plain.find(content(" you")) is None


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (content("Hello"), "other"),
        (content("Hello"), ""),
        (block(chunk(delta={"content": "Hello"}) | {"content": "Hello"}), "Hello"),
        (block(chunk(delta={"content": "Hello"}) | {"more": {"content": "x"}}), "Hello"),
        (block({'foo"content': "Hello"}), "Hello"),
        (b'data: {"content":"\xff"}', "\ufffd"),
        (b'data: {"content":"\\x"}', "x"),
        (b'data: {"content":"Hello', "Hello"),
        (b"[DONE]", ""),
    ],
)
def test_what_cannot_be_learned(event: bytes, text: str) -> None:
    assert surroundings(event, "content", text) is None
    plain = Plain()
    plain.learn(event, "content", text)
    assert plain.find(event) is None


def test_the_latest_surroundings_count() -> None:
    plain = learned()
    thinking = block(chunk(delta={"reasoning": "Hm"}))
    plain.learn(thinking, "reasoning", "Hm")
    assert plain.find(thinking) == ("reasoning", b"Hm")
    assert plain.find(content("Hello")) is None


def passed_on(plain: Plain, event: bytes, *, takes: bool = True, dated: Dated | None = None) -> bytes | None:
    """What becomes of an event that comes alone, None where it is to be read."""
    written: list[bytes] = []

    def write(data: bytes) -> bool:
        written.append(data)
        return takes

    taken = plain.express(b"<", b">", write, dated)(event)
    assert taken is (bool(written) and takes)
    return b"".join(written) if taken else None


@pytest.mark.parametrize("text", [" world", "a", '"', "\\", "\n", "é", "", " }]}"])
def test_an_event_alone(text: str) -> None:
    """Passed on where nothing in the text is unusual; never with something else around it."""
    raw, event = json.dumps(text, ensure_ascii=False)[1:-1].encode(), content(text) + b"\n\n"
    usual = raw == text.encode() and text.isascii() and text
    assert passed_on(learned(), event) == (b"<" + raw + b">" if usual else None)
    assert passed_on(learned(), event, takes=False) is None
    for other in (event[:-1], event[1:], event + event, event + b": ping\n\n", b"\n" + event, content(text), b""):
        assert passed_on(learned(), other) is None
        assert passed_on(Plain(), other) is None


def test_an_event_alone_and_its_time() -> None:
    times = iter([b"1", b"2"])
    dated = b"at ", lambda: next(times)
    assert passed_on(learned(), content("x") + b"\n\n", dated=dated) == b"at 1<x>"
    assert passed_on(learned(), content("é") + b"\n\n", dated=dated) is None
    assert next(times) == b"2", "the time is not looked at in vain"


def test_what_counts_up_alone() -> None:
    plain = Plain(COUNTS)
    plain.learn(counted("Hello", 9), "content", "Hello")
    event = counted(" you", 10) + b"\n\n"
    assert passed_on(plain, event) == b"< you>"
    for other in (event[:-1], event + event, event + b"1", counted("x", 10, metrics={}) + b"\n\n", counted('"', 9)):
        assert passed_on(plain, other) is None


def test_an_engine_whose_events_always_differ_is_left_alone() -> None:
    plain = Plain()
    for number in range(100):
        event = block(chunk(delta={"content": "x"}) | {"id": number})
        assert plain.find(event) is None
        plain.learn(event, "content", "x")
    plain.learn(content("Hello"), "content", "Hello")
    assert plain.find(content("Hello")) is None


def test_what_changes_now_and_then_is_learned_again() -> None:
    plain = Plain()
    for number in range(100):
        event = block(chunk(delta={"content": "x"}) | {"created": number})
        assert plain.learn(event, "content", "x")
        assert all(plain.find(event) == ("content", b"x") for _ in range(4))
        assert all(passed_on(plain, event + b"\n\n") for _ in range(4)), "counted, too"


def test_learning_costs_no_more_than_it_is_worth() -> None:
    """One of two choices that take turns is found, the other is not learned each time in its place."""
    plain = Plain()
    learned = found = 0
    for number in range(400):
        event = block(chunk(delta={"content": "x"}, index=number % 2))
        if plain.find(event):
            found += 1
        else:
            learned += plain.learn(event, "content", "x")
    assert found > 100
    assert learned < 8 + found / 8 + 1


def counted(text: str, tokens: int, **more: Any) -> bytes:
    return block(chunk(delta={"content": text}) | {"usage": {"prompt_tokens": 9, "total_tokens": tokens}} | more)


def test_numbers_that_count_up() -> None:
    plain = Plain(COUNTS)
    plain.learn(counted("Hello", 9), "content", "Hello")
    assert plain.find(counted(" you", 10)) == ("content", b" you")
    assert plain.find(counted('","usage":{"', 11)) == ("content", b'\\",\\"usage\\":{\\"')
    for other in [
        counted("x", 10, metrics={}), content("x"), counted("", 10), block(chunk(delta={"content": "x"}, index=1)),
        counted("x", 10).replace(b"prompt", b"cached"),
    ]:  # fmt: skip
        assert plain.find(other) is None


def test_nothing_counts_up_after_all() -> None:
    plain = Plain(COUNTS)
    plain.learn(content("Hello"), "content", "Hello")
    assert plain.find(content(" you")) == ("content", b" you")
    assert plain.find(counted(" you", 9)) is None


def test_what_an_engine_said() -> None:
    """Nearly all tokens of real replies are found."""
    found = full = 0
    for entry in json.loads((FOLDER / "demo.json").read_text()):
        plain = Plain(COUNTS)
        events = [event for part in entry["chunks"] for event in part.encode("utf-8", "surrogateescape").split(b"\n\n")]
        for event in events:
            wanted, text = read(event), plain.find(event)
            full += wanted is not None and wanted[1] != ""
            found += text is not None
            if text is not None:
                assert (text[0], json.loads(b'"' + text[1] + b'"')) == wanted
            elif wanted is not None:
                plain.learn(event, *wanted)
    assert found > 0.6 * full > 100


def test_what_an_event_became() -> None:
    plain = Rewritten()
    assert plain.learn_pair(content("Hello"), b'{"text":"?","content":"Hello"}', "content", "Hello")
    assert (plain.before, plain.after) == (b'{"text":"?","content":"', b'"}')
    for made in [b'{"content":"Hell"}', b'{"content":"Hello"}{"content":"Hello"}', b""]:
        assert not plain.learn_pair(content("x", indent=1), made, "content", "Hello")
    assert plain.find(content(" you")) == ("content", b" you")


def test_the_text_of_a_member() -> None:
    assert text_of(b'{"a":1,"text":"x\\n"}', "text") == "x\n"
    assert text_of(b'{"text":"x","b":{"text":"y"}}', "text") is None
    assert text_of(b'{"text":null}', "text") is None


# Properties

PIECES = [
    '"', "\\", "n", "u0061", "\n", "\x00", "\x1f", "\x7f", "content", '":"', '"},"', "}", "{", ",", "é", "🎉", "\ud83d",
    " ",
]  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=8),
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.just('"},"logprobs":null,"finish_reason":null,"token_ids":null}]}'),
)
DELTAS = st.one_of(
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"reasoning": text}),
    st.tuples(TEXTS, TEXTS).map(lambda texts: {"content": texts[0], "reasoning": texts[1]}),
    TEXTS.map(lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text, "content": text}}]}),
    st.just({}),
)
CHUNKS = st.one_of(
    st.builds(chunk, delta=DELTAS),
    st.builds(chunk, text=TEXTS),
    st.builds(chunk, delta=DELTAS, index=st.integers(0, 1), finish_reason=st.sampled_from([None, "stop"])),
    st.builds(lambda choices: {"id": "chatcmpl-1", "choices": choices}, st.lists(st.builds(dict, delta=DELTAS))),
)
HOW = st.fixed_dictionaries(
    {"ensure_ascii": st.booleans(), "separators": st.sampled_from([(",", ":"), (", ", ": ")])},
)
STREAMS = st.builds(
    lambda chunks, how: [block(value, **how) for value in chunks], st.lists(CHUNKS, min_size=2, max_size=12), HOW
)


def follow(plain: Plain, events: list[bytes]) -> None:
    """That what is found is what the event says in full, and written as a JSON encoder would."""
    for event in events:
        wanted, found = read(event), plain.find(event)
        if found is not None:
            assert wanted is not None
            assert found == (wanted[0], msgspec.json.encode(wanted[1])[1:-1])
        elif wanted is not None:
            plain.learn(event, *wanted)


@examples(80)
@given(STREAMS)
def test_found_is_what_is_read(events: list[bytes]) -> None:
    follow(Plain(), events)
    follow(Plain(COUNTS), events)


@examples(80)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.data())
def test_found_is_what_is_read_of_bytes_gone_wrong(texts: list[str], data: st.DataObject) -> None:
    events = [content(text, ensure_ascii=True) for text in ["Hello", *texts]]
    place = data.draw(st.integers(100, 150))
    wrong = [event[:place] + data.draw(st.binary(max_size=3)) + event[place:] for event in events]
    follow(Plain(), [events[0], *wrong, *events, events[1][:place] + events[1][place + 1 :]])
