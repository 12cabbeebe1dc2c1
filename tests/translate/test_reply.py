"""The engine's events into pieces of Ollama's replies."""

import re

import msgspec
import pytest

from tests.each import each
from vllama.translate.reply import Piece, Reply, done_reason, metrics
from vllama.translate.think_tags import ThinkTags
from vllama.wire.openai import Completion


def completion(**fields):
    return msgspec.convert(fields, Completion)


def delta(finish=None, **message):
    return completion(choices=[{"delta": message, "finish_reason": finish}])


def whole(finish="stop", **message):
    return completion(choices=[{"message": message, "finish_reason": finish}])


def read(*events):
    """All that the events add, in one piece; and the pieces."""
    reply = Reply()
    pieces = [piece for event in events if (piece := reply.feed(event))]
    if rest := reply.close():
        pieces.append(rest)
    joined = Piece(
        "".join(piece.text for piece in pieces),
        "".join(piece.thinking for piece in pieces),
        [call for piece in pieces for call in piece.tool_calls],
    )
    return joined, pieces


def calls(piece):
    return [(call.function.index, call.function.name, call.function.arguments) for call in piece.tool_calls]


def call(name=None, arguments=None, **fields):
    return {"function": {"name": name, "arguments": arguments}, **fields}


def test_streamed_text():
    joined, pieces = read(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), delta("stop"))
    assert [piece.text for piece in pieces] == ["Hel", "lo"]
    assert joined == Piece("Hello")


def test_text_in_the_last_event():
    assert read(delta(content="a"), delta("length", content="b"))[0].text == "ab"


def test_whole_text():
    assert read(whole(content="Hello"))[0] == Piece("Hello")


@each("text", [" leading", "trailing \n", "\n\n", "grüß 🙂", "é", "\x00", " "])
def test_text_is_left_as_it_is(text):
    assert read(whole(content=text))[0].text == text
    assert read(*[delta(content=character) for character in text])[0].text == text


def test_completions():
    chunks = [completion(choices=[{"text": text, "finish_reason": None}]) for text in ("One", " two", "")]
    assert [piece.text for piece in read(*chunks)[1]] == ["One", " two"]
    assert read(completion(choices=[{"text": " Hi", "finish_reason": "length"}]))[0] == Piece(" Hi")


@each(
    "event",
    [
        completion(),
        completion(choices=[{"delta": {}}]),
        completion(choices=[{"delta": {"content": ""}}]),
        completion(choices=[{"delta": {"reasoning": ""}}]),
        completion(choices=[{"delta": {"tool_calls": []}}]),
        completion(choices=[{"text": ""}]),
        completion(choices=[{}]),
    ],
)
def test_events_that_add_nothing(event):
    assert read(event)[1] == []


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking(field):
    joined, pieces = read(delta(**{field: "Let me"}), delta(**{field: " see"}), delta(content="42"), delta("stop"))
    assert [(piece.thinking, piece.text) for piece in pieces] == [("Let me", ""), (" see", ""), ("", "42")]
    assert read(whole(content="42", **{field: "Let me see"}))[0] == joined


@each(
    ("thoughts", "answers", "thinking", "text"),
    [
        (["\nLet me see.\n"], ["\n\n42"], "Let me see.", "42"),
        (["\n", "Let", " me", "\n", "\n"], ["\n", "\n", "42", "\n"], "Let me", "42\n"),
        (["a\n", "\nb", "  "], ["c"], "a\n\nb", "c"),
        (["a ", " ", " b"], [" ", " c d "], "a   b", "c d "),
        ([" \n"], ["\n\nHi"], "", "Hi"),
        (["grüß", " 🙂\n"], ["\n🙂"], "grüß 🙂", "🙂"),
        (["a"], [], "a", ""),
        (["a"], ["\n"], "a", ""),
        ([], ["\n\nHi"], "", "\n\nHi"),
    ],
)
def test_white_space_around_thinking(thoughts, answers, thinking, text):
    events = [*(delta(reasoning=thought) for thought in thoughts), *(delta(content=answer) for answer in answers)]
    assert read(*events, delta("stop"))[0] == Piece(text, thinking)
    assert read(whole(reasoning="".join(thoughts), content="".join(answers)))[0] == Piece(text, thinking)
    every = [delta(reasoning=one) for one in "".join(thoughts)] + [delta(content=one) for one in "".join(answers)]
    assert read(*every)[0] == Piece(text, thinking)


def test_thinking_and_text_in_one_event():
    assert read(delta(reasoning="so\n", content="\nHi"))[0] == Piece("Hi", "so")


def test_tool_calls_are_held_back_until_they_are_whole():
    reply = Reply()
    events = [
        delta(tool_calls=[call("weather", "", index=0, id="x")]),
        delta(tool_calls=[call(None, '{"city": "Zü', index=0)]),
        delta(tool_calls=[call(None, 'rich"}', index=0)]),
        delta(tool_calls=[call("time", "{}", index=1, id="y")]),
    ]
    assert [reply.feed(event) for event in events] == [None] * 4
    piece = reply.feed(delta("tool_calls"))
    assert piece is not None
    assert calls(piece) == [(0, "weather", {"city": "Zürich"}), (1, "time", {})]
    assert reply.close() is None
    assert done_reason(reply.finish_reason) == "stop"


def test_tool_calls_leave_at_the_end_of_a_stream_that_names_no_reason():
    assert calls(read(delta(tool_calls=[call("f", "{}", index=0)]))[0]) == [(0, "f", {})]


def test_text_before_tool_calls():
    joined, pieces = read(delta(content="Well."), delta("tool_calls", tool_calls=[call("f", "{}", index=0)]))
    assert [piece.text for piece in pieces] == ["Well.", ""]
    assert calls(joined) == [(0, "f", {})]


@each(
    ("events", "expected"),
    [
        pytest.param(
            [whole(tool_calls=[call("f", '{"a":1}', id="1"), call("g", "{}", id="2")])],
            [("f", {"a": 1}), ("g", {})],
            id="whole",
        ),
        pytest.param([whole(tool_calls=[call("f", "{}"), call("f", "{}")])], [("f", {}), ("f", {})], id="no ids"),
        pytest.param(
            [delta(tool_calls=[call("f", "{}", id="1")]), delta(tool_calls=[call("g", '{"b":2}', id="2")])],
            [("f", {}), ("g", {"b": 2})],
            id="one event each",
        ),
        pytest.param(
            [delta(tool_calls=[call("f", '{"a"', id="1")]), delta(tool_calls=[call(None, ":1}")])],
            [("f", {"a": 1})],
            id="fragments",
        ),
        pytest.param(
            [delta(tool_calls=[call("f", '{"a"', id="1")]), delta(tool_calls=[call("f", ":1}", id="1")])],
            [("f", {"a": 1})],
            id="fragments that repeat the id",
        ),
        pytest.param([delta(tool_calls=[call(None, "{}")])], [("", {})], id="a fragment alone"),
    ],
)
def test_tool_calls_without_index(events, expected):
    assert [(name, arguments) for _, name, arguments in calls(read(*events)[0])] == expected


def test_tool_calls_in_any_order_of_index():
    event = delta("tool_calls", tool_calls=[call("b", "{}", index=3), call("a", "{}", index=1)])
    assert calls(read(event)[0]) == [(0, "a", {}), (1, "b", {})]


@each("arguments", [None, "", " \n", "null", "{}", " {} "])
def test_no_arguments(arguments):
    assert calls(read(whole(tool_calls=[call("f", arguments)]))[0]) == [(0, "f", {})]


@each("arguments", ['{"a": ', "[1]", '"text"', "1", "true", "{'a': 1}", "[" * 100_000])
def test_garbled_arguments_are_shown_as_text(arguments):
    joined, _ = read(whole(content="Hm. ", tool_calls=[call('f"', arguments), call("g", "{}")]))
    assert joined.text == f'Hm. {{"name": "f\\"", "arguments": {arguments}}}'
    assert calls(joined) == [(0, "g", {})]


def test_order_of_arguments_is_kept():
    (one,) = read(whole(tool_calls=[call("f", '{"z":1,"a":2}')]))[0].tool_calls
    assert list(one.function.arguments) == ["z", "a"]


def test_ids_of_calls_are_ollamas():
    ids = [one.id for one in read(whole(tool_calls=[call("f"), call("f")]))[0].tool_calls]
    assert all(re.fullmatch("call_[a-z0-9]{8}", id_) for id_ in ids)
    assert len(set(ids)) == 2


def test_pieces_share_nothing():
    Reply().feed(whole(tool_calls=[call("f")]))
    assert Piece().tool_calls == []


@each(
    ("finish", "reason"),
    [
        (None, None),
        ("abort", None),
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "stop"),
        ("repetition", "stop"),
        ("function_call", "stop"),
    ],
)
def test_done_reason(finish, reason):
    assert done_reason(finish) == reason


def measured(load=3_000_000, first=10_000_000, total=30_000_000, **fields):
    reply = Reply()
    reply.feed(completion(**fields))
    return metrics(reply, load=load, first=first, total=total)


def test_metrics_by_the_clock():
    assert measured(usage={"prompt_tokens": 7, "completion_tokens": 5}) == {
        "total_duration": 30_000_000,
        "load_duration": 3_000_000,
        "prompt_eval_count": 7,
        "prompt_eval_duration": 7_000_000,
        "eval_count": 5,
        "eval_duration": 20_000_000,
    }


@each(
    ("timings", "prompt", "decode"),
    [
        (
            {"time_to_first_token_ms": 5.5, "queue_time_ms": 1.25, "generation_time_ms": 12.3456789},
            4_250_000,
            12_345_679,
        ),
        ({"time_to_first_token_ms": 5.5, "generation_time_ms": 2}, 5_500_000, 2_000_000),
        ({"time_to_first_token_ms": 5.5}, 5_500_000, 20_000_000),
        ({"generation_time_ms": 2}, 7_000_000, 2_000_000),
        ({"time_to_first_token_ms": 1, "queue_time_ms": 2, "generation_time_ms": 0}, 1, 1),
        ({}, 7_000_000, 20_000_000),
    ],
)
def test_metrics_by_the_engine(timings, prompt, decode):
    found = measured(metrics=timings)
    assert (found["prompt_eval_duration"], found["eval_duration"]) == (prompt, decode)


def test_metrics_of_an_earlier_event_are_kept():
    reply = Reply()
    reply.feed(completion(usage={"prompt_tokens": 7}, metrics={"generation_time_ms": 2}))
    reply.feed(delta("stop"))
    found = metrics(reply, load=1, first=2, total=3)
    assert (found["prompt_eval_count"], found["eval_duration"]) == (7, 2_000_000)


def test_no_metric_is_ever_zero():
    found = measured(load=0, first=0, total=0, usage={"prompt_tokens": 0, "completion_tokens": None})
    assert list(found.values()) == [1] * 6
    assert all(type(value) is int for value in found.values())


def read_with(reply, *events):
    pieces = [piece for event in events if (piece := reply.feed(event))]
    pieces += [rest] if (rest := reply.close()) else []
    return "".join(piece.thinking for piece in pieces), "".join(piece.text for piece in pieces)


def text(value, finish=None, **fields):
    return completion(choices=[{"text": value, "finish_reason": finish, **fields}])


def test_thinking_in_a_completion():
    events = [text("<thi"), text("nk>\nHm."), text("\n</think>\n"), text("\nYes."), text("", "stop")]
    assert read_with(Reply(ThinkTags()), *events) == ("Hm.", "Yes.")
    assert read_with(Reply(ThinkTags(begun=True)), text("Hm.</think>Yes.", "stop")) == ("Hm.", "Yes.")
    assert read_with(Reply(ThinkTags()), text("<thi", "length")) == ("", "<thi")
    assert read_with(Reply(), text("<think>Hm.</think>", "stop")) == ("", "<think>Hm.</think>")


def test_tokens_of_prompt_and_reply():
    reply = Reply()
    reply.feed(completion(prompt_token_ids=[1, 2], choices=[{"delta": {"content": ""}}]))
    reply.feed(completion(choices=[{"delta": {"content": "a"}, "token_ids": [3, 4]}]))
    reply.feed(completion(choices=[{"delta": {}, "token_ids": [5], "finish_reason": "stop"}]))
    assert reply.tokens == [1, 2, 3, 4, 5]
    whole_reply = Reply()
    whole_reply.feed(text("a", "stop", token_ids=[3], prompt_token_ids=[1, 2]))
    assert whole_reply.tokens == [1, 2, 3]


def test_logprobs_without_text_are_a_piece_too():
    token = {"token": "<think>", "logprob": -0.5, "bytes": [60]}
    piece = Reply().feed(completion(choices=[{"delta": {}, "logprobs": {"content": [token]}}]))
    assert piece is not None
    assert (piece.text, [entry.token for entry in piece.logprobs]) == ("", ["<think>"])
    assert Reply().feed(completion(choices=[{"delta": {}, "logprobs": None}])) is None


@pytest.mark.parametrize("arguments", [None, "", '{"city": "Par'])
def test_a_call_that_the_budget_cut_off_is_no_call(arguments):
    whole_call = call("f", '{"a": 1}', index=0)
    joined, _ = read(delta(tool_calls=[whole_call]), delta(tool_calls=[call("g", arguments, index=1)]), delta("length"))
    assert calls(joined) == [(0, "f", {"a": 1})]
    assert joined.text == ""


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ('<tool_call>\n{"name": "f", "arguments": ', ""),
        ('I look. <tool_call>{"na', "I look. "),
        ("[TOOL_CALLS]f", ""),
        ("no call", "no call"),
    ],
)
def test_a_call_that_breaks_off_is_no_text(content, kept):
    assert read_with(Reply(tools=True), whole("length", content=content)) == ("", kept)
    assert read_with(Reply(), whole("length", content=content)) == ("", content), "nobody offered a tool"
    assert read_with(Reply(tools=True), whole("stop", content=content)) == ("", content)


@each(
    ("finish", "stop_reason", "kept"),
    [
        ("stop", None, 1),
        ("tool_calls", None, 1),
        ("stop", 151645, 1),
        ("stop", "END", 2),
        ("length", None, 2),
        (None, None, 2),
    ],
)
def test_the_end_of_turn_is_no_token_of_the_text(finish, stop_reason, kept):
    tokens = [{"token": token, "logprob": -0.5} for token in ("Hi", "<|im_end|>")]
    choice = {"message": {"content": "Hi"}, "finish_reason": finish, "stop_reason": stop_reason}
    piece = Reply().feed(completion(choices=[choice | {"logprobs": {"content": tokens}}]))
    assert piece is not None
    assert len(piece.logprobs) == kept
