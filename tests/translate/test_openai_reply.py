"""The engine's replies to OpenAI's chats and completions."""

import json

import pytest

from vllama.translate.openai_reply import ChatReply, Renamed


def event(reply, value):
    """What becomes of an event that is read in full."""
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return reply.event(b"data: " + data, data)


# Chats


def whole(*messages):
    choices = [{"index": index, "message": message} for index, message in enumerate(messages)]
    reply = ChatReply("Demo").whole(json.dumps({"id": "chatcmpl-1", "model": "m", "choices": choices}).encode())
    return json.loads(reply)


def test_a_whole_reply():
    reply = whole(
        {"content": "\n\nHello!", "reasoning": "\nI greet.\n"},
        {"content": None, "reasoning": None, "tool_calls": [{"id": "a"}, {"id": "b"}]},
        {"content": "\nplain"},
    )
    assert (reply["id"], reply["model"], reply["system_fingerprint"]) == ("chatcmpl-1", "Demo", "fp_ollama")
    assert [choice["message"] for choice in reply["choices"]] == [
        {"content": "Hello!", "reasoning": "I greet."},
        {"content": "", "tool_calls": [{"id": "a", "index": 0}, {"id": "b", "index": 1}]},
        {"content": "\nplain"},
    ]


def streamed(*choices):
    """What becomes of chunks with one choice each: the choices that are left."""
    reply = ChatReply("Demo")
    data = b"".join(event(reply, {"model": "m", "choices": [choice]}) for choice in choices)
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in data.split(b"\n\n")[:-1]]
    assert {chunk["model"] for chunk in chunks} == {"Demo"}
    return [choice for chunk in chunks for choice in chunk["choices"]]


def delta(index=0, *, finish_reason=None, **delta):
    return {"index": index, "delta": delta, "finish_reason": finish_reason}


def test_a_streamed_reply():
    assert streamed(
        delta(role="assistant", content=""),
        delta(reasoning="\n"),
        delta(reasoning="I greet"),
        delta(reasoning=".\n"),
        delta(content="\n\n"),
        delta(content="Hello"),
        delta(content="!\n"),
        delta(finish_reason="stop"),
    ) == [
        delta(role="assistant", content=""),
        delta(reasoning="I greet", content=""),
        delta(reasoning=".", content=""),
        delta(content="Hello"),
        delta(content="!\n"),
        delta(finish_reason="stop"),
    ]


def test_streamed_calls():
    function = {"name": "f"}
    assert streamed(
        delta(content=None, tool_calls=[{"index": 0, "function": function}]),
        delta(content=None, tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
    ) == [
        delta(content="", tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}]),
        delta(content="", tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
    ]


def test_each_choice_is_trimmed_by_itself():
    assert streamed(delta(0, reasoning="\na"), delta(1, content="\nb"), delta(0, content="\nc")) == [
        delta(0, reasoning="a", content=""),
        delta(1, content="\nb"),
        delta(0, content="c"),
    ]


def test_the_end_is_a_chunk_of_its_own():
    tokens = {"logprobs": {"content": []}, "token_ids": [5]}
    assert streamed(
        delta(content=" an", finish_reason="length") | tokens | {"stop_reason": None},
        delta(1, reasoning="\n", finish_reason="length"),
    ) == [
        delta(content=" an") | tokens,
        delta(finish_reason="length") | {"stop_reason": None},
        delta(1, finish_reason="length"),
    ]


@pytest.mark.parametrize("more", [{"logprobs": {"content": []}}, {"token_ids": [5]}])
def test_what_else_a_chunk_says_is_kept(more):
    assert streamed(delta(reasoning="\n") | more) == [delta(content="") | more]


def test_a_chunk_of_usage_alone_passes():
    made = event(ChatReply("Demo"), {"choices": [], "usage": {"prompt_tokens": 1}})
    expected = b'data: {"choices":[],"usage":{"prompt_tokens":1},"model":"Demo","system_fingerprint":"fp_ollama"}\n\n'
    assert made == expected


def shortcuts(reply, *values):
    """For each event: what becomes of it on the shortcut, None where there is none and it was read in full."""
    made = []
    for value in values:
        data = json.dumps(value, separators=(",", ":")).encode()
        pieces = reply.shortcut(b"data: " + data)
        made.append(None if pieces is None else b"".join(pieces))
        if pieces is None:
            event(reply, value)
    return made


def chunk(*choices, **more):
    return {"id": "chatcmpl-1", "model": "m", "choices": list(choices), **more}


def written(text, field="content"):
    delta = {"reasoning": text, "content": ""} if field == "reasoning" else {"content": text}
    value = chunk({"index": 0, "delta": delta, "finish_reason": None}) | {"model": "Demo"}
    value["system_fingerprint"] = "fp_ollama"
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def test_plain_tokens_of_an_answer():
    assert shortcuts(
        ChatReply("Demo"),
        chunk(delta(role="assistant", content="")),
        chunk(delta(content="Hello")),
        chunk(delta(content=" you")),
        chunk(delta(content="")),
        chunk(delta(content='"\n')),
        chunk(delta(content="!", finish_reason="length")),
    ) == [None, None, written(" you"), None, written('"\n'), None]


def test_plain_tokens_of_thinking():
    """White space that ends a thought is held back; behind it the next one is read, and the answer's first."""
    assert shortcuts(
        ChatReply("Demo"),
        *(chunk(delta(reasoning=text)) for text in ("\n", "I", " greet", ".", "\n", "More", ".", "é", "\u3000")),
        *(chunk(delta(content=text)) for text in ("\n\n", "Hello", "!", "\n")),
    ) == [
        *(None, None, written(" greet", "reasoning"), written(".", "reasoning"), None, None, written(".", "reasoning")),
        None,  # escaped more than it must be
        *(None, None, None, written("!"), written("\n")),
    ]


def test_choices_have_states_of_their_own():
    assert shortcuts(
        ChatReply("Demo"),
        chunk(delta(0, content="a")),
        chunk(delta(1, content="b")),
        chunk(delta(1, content="c")),
        chunk(delta(0, content="d")),
        chunk(delta(0, content="e"), delta(1, content="f")),
    )[2:] == [
        b'data: {"id":"chatcmpl-1","model":"Demo","choices":[{"index":1,"delta":{"content":"c"},"finish_reason":null}],'
        b'"system_fingerprint":"fp_ollama"}\n\n',
        None,
        None,
    ]


# Others


def test_another_name():
    reply = Renamed("Demo", system_fingerprint="fp")
    assert reply.whole(b'{"model":"m","x":1.50}') == b'{"model":"Demo","x":1.50,"system_fingerprint":"fp"}'
    assert reply.whole(b'{"x":1}') == b'{"x":1}'
    assert reply.whole(b"1\n00:00 --> 00:01\nHello!") == b"1\n00:00 --> 00:01\nHello!"


def test_events_under_another_name():
    reply = Renamed("Demo")
    assert event(reply, {"model": "m", "choices": []}) == b'data: {"model":"Demo","choices":[]}\n\n'
    named = b'event: x\ndata: {"model":\ndata: "m"}\nid: 1'
    assert reply.event(named, b'{"model":\n"m"}') == b'event: x\nid: 1\ndata: {"model":"Demo"}\n\n'


@pytest.mark.parametrize("choice", [lambda text: {"text": text}, lambda text: {"delta": {"content": text}}])
def test_plain_tokens_under_another_name(choice):
    values = [{"model": "m", "choices": [choice(text)]} for text in ("Hello", "", "!")]
    first, second, third = shortcuts(Renamed("Demo"), *values)
    assert (first, second) == (None, None)
    assert third == b"data: " + json.dumps(values[2] | {"model": "Demo"}, separators=(",", ":")).encode() + b"\n\n"


def test_probabilities_are_not_looked_at():
    body = b'{"choices":[{"message":{"content":"a"},"logprobs":{"content":[1.50]}}]}'
    assert b'"logprobs":{"content":[1.50]}' in ChatReply("Demo").whole(body)


@pytest.mark.parametrize("choice", [{"index": 0}, {"index": 0, "delta": None}, {"index": 0, "delta": {}}])
def test_a_choice_that_adds_nothing_passes(choice):
    assert streamed(choice) == [choice]


@pytest.mark.parametrize("more", [{}, {"reasoning": "\nI"}, {"reasoning": None}])
def test_thinking_under_another_name(more):
    reply = streamed(delta(0, reasoning_content="\nI", **more), delta(0, content="\nHello"))
    assert reply == [delta(0, reasoning="I", content=""), delta(0, content="Hello")]
