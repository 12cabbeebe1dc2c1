"""What the engine is asked for Ollama's requests."""

import base64
import json

import msgspec
import pytest

from vllama.errors import ApiError
from vllama.translate.request import (
    CHAT_PATH,
    COMPLETION_PATH,
    chat_request,
    check_think,
    fit_context,
    generate_request,
)
from vllama.wire.ollama import ChatRequest, GenerateRequest

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
THINK_TEXT = '(must be "high", "medium", "low", "max", true, or false)'
NO_THINK = 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'


def chat(*, templated=True, thinks=False, **fields):
    return chat_request(msgspec.convert({"model": "m", **fields}, ChatRequest), templated=templated, thinks=thinks)


def generate(*, templated=True, thinks=False, **fields):
    request = msgspec.convert({"model": "m", **fields}, GenerateRequest)
    return generate_request(request, templated=templated, thinks=thinks)


def messages(*sent):
    return chat(messages=list(sent)).body["messages"]


def user(text):
    return {"role": "user", "content": text}


def call(name, arguments=None, **fields):
    return {"function": {"name": name, "arguments": arguments or {}}, **fields}


def test_a_chat():
    asked = chat(messages=[user("Hi")])
    assert asked.path == CHAT_PATH
    assert asked.body == {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [user("Hi")],
    }


@pytest.mark.parametrize(("stream", "streams"), [(None, True), (True, True), (False, False)])
@pytest.mark.parametrize("ask", [chat, generate])
def test_streams_unless_told_otherwise(ask, stream, streams):
    body = ask(stream=stream).body
    assert body.get("stream", False) is streams
    assert ("stream_options" in body) is streams


@pytest.mark.parametrize("ask", [chat, generate])
def test_options_become_parameters(ask):
    body = ask(options={"temperature": 0, "num_predict": 5, "stop": ["x"], "seed": 3}).body
    assert {name: body[name] for name in ("temperature", "max_tokens", "stop", "seed")} == {
        "temperature": 0.0, "max_tokens": 5, "stop": ["x"], "seed": 3,
    }  # fmt: skip


@pytest.mark.parametrize("ask", [chat, generate])
def test_options_of_wrong_types_are_refused(ask):
    with pytest.raises(ApiError, match='option "seed" must be of type integer') as raised:
        ask(options={"seed": "x"})
    assert raised.value.status == 500


@pytest.mark.parametrize(
    ("format_", "sent"),
    [
        (None, None),
        ("", None),
        ("json", {"type": "json_object"}),
        ({"type": "object"}, {"type": "json_schema", "json_schema": {"name": "format", "schema": {"type": "object"}}}),
        ({}, {"type": "json_schema", "json_schema": {"name": "format", "schema": {}}}),
    ],
)
@pytest.mark.parametrize("ask", [chat, generate])
@pytest.mark.parametrize("templated", [True, False])
def test_format(ask, templated, format_, sent):
    assert ask(format=format_, templated=templated).body.get("response_format") == sent


@pytest.mark.parametrize(
    ("format_", "shown"),
    [("yaml", r'"\"yaml\""'), (1, '"1"'), (True, '"true"'), (["json"], r'"[\"json\"]"'), ("JSON", r'"\"JSON\""')],
)
@pytest.mark.parametrize("ask", [chat, generate])
def test_unknown_format(ask, format_, shown):
    with pytest.raises(ApiError) as raised:
        ask(format=format_)
    assert raised.value.status == 500
    assert raised.value.message == f'invalid format: {shown}; expected "json" or a valid JSON Schema object'


@pytest.mark.parametrize("value", [None, True, False, "low", "medium", "high", "max"])
def test_values_of_think(value):
    assert check_think(value) is value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("foo", f'invalid think value: "foo" {THINK_TEXT}'),
        ("", f'invalid think value: "" {THINK_TEXT}'),
        ("High", f'invalid think value: "High" {THINK_TEXT}'),
        ("true", f'invalid think value: "true" {THINK_TEXT}'),
        ('a"b', rf'invalid think value: "a\"b" {THINK_TEXT}'),
        (1, NO_THINK),
        (0.5, NO_THINK),
        ({}, NO_THINK),
        (["high"], NO_THINK),
    ],
)
def test_wrong_values_of_think(value, text):
    for ask in (check_think, lambda value: chat(think=value), lambda value: generate(think=value)):
        with pytest.raises(ApiError) as raised:
            ask(value)
        assert (raised.value.status, raised.value.message) == (400, text)


@pytest.mark.parametrize(
    ("think", "enabled", "effort"),
    [(None, True, None), (True, True, None), (False, False, None), ("low", True, "low"), ("max", True, "max")],
)
@pytest.mark.parametrize("ask", [chat, generate])
def test_thinking_models(ask, think, enabled, effort):
    body = ask(think=think, thinks=True).body
    assert body["chat_template_kwargs"] == {"enable_thinking": enabled, "thinking": enabled}
    assert body.get("reasoning_effort") == effort


@pytest.mark.parametrize("think", [None, False, True])
@pytest.mark.parametrize("ask", [chat, generate])
def test_other_models_are_told_nothing_of_thinking(ask, think):
    assert not {"chat_template_kwargs", "reasoning_effort"} & ask(think=think).body.keys()


@pytest.mark.parametrize(
    ("fields", "path", "asked"),
    [
        ({"prompt": "Hi"}, CHAT_PATH, [user("Hi")]),
        ({"prompt": "Hi", "system": "Be"}, CHAT_PATH, [{"role": "system", "content": "Be"}, user("Hi")]),
        ({"prompt": "Hi", "system": ""}, CHAT_PATH, [user("Hi")]),
        ({"prompt": "Hi", "raw": True}, COMPLETION_PATH, "Hi"),
        ({"prompt": "Hi", "raw": True, "templated": False}, COMPLETION_PATH, "Hi"),
        ({"prompt": "Hi", "templated": False}, COMPLETION_PATH, "Hi"),
        ({"prompt": "Hi", "system": "Be ", "templated": False}, COMPLETION_PATH, "Be Hi"),
        ({}, CHAT_PATH, [user("")]),
        ({"raw": True}, COMPLETION_PATH, ""),
    ],
)
def test_generate(fields, path, asked):
    request = generate(**fields)
    assert request.path == path
    assert request.body.get("messages", request.body.get("prompt")) == asked


def test_generate_with_images():
    (message,) = generate(prompt="What is it?", images=[PNG]).body["messages"]
    assert message["content"][0] == {"type": "text", "text": "What is it?"}
    assert message["content"][1]["type"] == "image_url"


def test_raw_prompts_carry_no_thinking():
    assert "chat_template_kwargs" not in generate(prompt="Hi", raw=True, thinks=True).body


def test_chat_without_a_template():
    asked = chat(messages=[user("One "), {"role": "assistant"}, user("two")], templated=False, thinks=True)
    assert (asked.path, asked.body["prompt"]) == (COMPLETION_PATH, "One two")
    assert not {"messages", "chat_template_kwargs"} & asked.body.keys()


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ({"role": "User", "content": "a"}, user("a")),
        ({"role": "user", "content": None}, user("")),
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        (
            {"role": "assistant", "content": "a", "thinking": "b"},
            {"role": "assistant", "content": "a", "reasoning": "b"},
        ),
        ({"role": "user", "content": "a", "thinking": "b"}, user("a")),
        ({"role": "user", "content": "a", "images": []}, user("a")),
        ({"role": "user", "content": "grüß 🙂"}, user("grüß 🙂")),
    ],
)
def test_messages(sent, asked):
    assert messages(sent) == [asked]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"GIF89a", "image/gif"),
        (b"GIF87a", "image/gif"),
    ],
)
def test_kinds_of_images(data, kind):
    encoded = base64.b64encode(data).decode()
    (message,) = messages({"role": "user", "images": [encoded]})
    assert message["content"] == [{"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}]


def test_line_breaks_in_base64_are_ignored():
    data = b"\x89PNG" + bytes(100)
    (message,) = messages({"role": "user", "images": [base64.encodebytes(data).decode().replace("\n", "\r\n")]})
    assert message["content"][0]["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize("image", ["data:image/png;base64," + PNG, "a", "****", "YQ", "é", PNG[:-1], "aGk=aGk="])
def test_no_images(image):
    with pytest.raises(ApiError, match="illegal base64 data") as raised:
        messages({"role": "user", "images": [PNG, image]})
    assert raised.value.status == 400


def test_tool_calls_and_results():
    sent = [
        user("Weather?"),
        {"role": "assistant", "tool_calls": [call("weather", {"city": "Zürich", "days": 2}, id="call_1")]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    ]
    _, assistant, result = messages(*sent)
    (asked,) = assistant["tool_calls"]
    assert (asked["id"], asked["type"], asked["function"]["name"]) == ("call_1", "function", "weather")
    assert json.loads(asked["function"]["arguments"]) == {"city": "Zürich", "days": 2}
    assert result == {"role": "tool", "content": "rain", "tool_call_id": "call_1"}


def test_order_of_arguments_is_kept():
    arguments = {"z": 1, "a": {"y": 1, "b": 2}}
    (message,) = messages({"role": "assistant", "tool_calls": [call("f", arguments)]})
    assert message["tool_calls"][0]["function"]["arguments"] == '{"z":1,"a":{"y":1,"b":2}}'


def test_arguments_as_text():
    (message,) = messages({"role": "assistant", "tool_calls": [call("f", '{"a": 1}')]})
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a":1}'


@pytest.mark.parametrize("text", ["{", "[]", "1", "null", "a", "[" * 100_000])
def test_arguments_that_are_no_object(text):
    with pytest.raises(ApiError, match=r'^the arguments of a call of "f" are no JSON object$') as raised:
        messages({"role": "assistant", "tool_calls": [call("f", text)]})
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("calls", "results", "answered"),
    [
        pytest.param(["f:1", "g:2"], [("2", None), ("1", None)], ["2", "1"], id="by id"),
        pytest.param(["f", "g"], [(None, "g"), (None, "f")], ["call_0_1", "call_0_0"], id="by name"),
        pytest.param(["f", "f"], [(None, "f"), (None, "f")], ["call_0_0", "call_0_1"], id="twice the same function"),
        pytest.param(["f", "g", "f"], [(None, "f"), (None, "g"), (None, "f")],
                     ["call_0_0", "call_0_1", "call_0_2"], id="the same function around another"),
        pytest.param(["f", "g"], [(None, None), (None, None)], ["call_0_0", "call_0_1"], id="in order"),
        pytest.param(["f"], [("", "")], ["call_0_0"], id="empty texts are absent"),
        pytest.param(["f:1"], [("9", "f")], ["9"], id="an id of nobody's"),
        pytest.param(["f:1"], [(None, "g")], ["call_unknown"], id="a name of nobody's"),
        pytest.param(["f:1"], [("1", None), (None, None)], ["1", "call_unknown"], id="one result too many"),
        pytest.param([], [(None, "f")], ["call_unknown"], id="no call at all"),
    ],
)  # fmt: skip
def test_which_call_a_result_answers(calls, results, answered):
    made = [call(name.partition(":")[0], id=name.partition(":")[2] or None) for name in calls]
    given = [{"role": "tool", "content": "x", "tool_call_id": id_, "tool_name": name} for id_, name in results]
    asked, *translated = messages({"role": "assistant", "tool_calls": made}, *given)
    assert [message["tool_call_id"] for message in translated] == answered
    ids = [call["id"] for call in asked.get("tool_calls", [])]
    assert len(set(ids)) == len(ids)


def test_calls_of_later_turns_have_ids_of_their_own():
    turn = [{"role": "assistant", "tool_calls": [call("f")]}, {"role": "tool", "content": "x"}]
    first, _, second, result = messages(*turn, *turn)
    assert first["tool_calls"][0]["id"] != second["tool_calls"][0]["id"] == result["tool_call_id"]


def test_tools():
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "$defs": {}}
    declared = {"name": "f", "description": "Does it.", "parameters": schema}
    tools = [{"type": "function", "function": declared}, {"function": {"name": "g", "description": ""}}]
    assert chat(tools=tools).body["tools"] == [
        {"type": "function", "function": declared},
        {"type": "function", "function": {"name": "g"}},
    ]
    assert "tools" not in chat(tools=[]).body


@pytest.mark.parametrize(
    ("asked", "length", "sent"),
    [
        ({}, 4096, {"max_tokens": 4096}),
        ({"max_tokens": 10}, 4096, {"max_tokens": 10}),
        ({"max_tokens": 4096}, 4096, {"max_tokens": 4096}),
        ({"max_tokens": 4097}, 4096, {"max_tokens": 4096}),
        ({"max_tokens": 10}, None, {"max_tokens": 10}),
        ({}, None, {}),
    ],
)
def test_no_more_tokens_than_the_context_holds(asked, length, sent):
    assert fit_context({"prompt": "x", **asked}, length) == {"prompt": "x", **sent}
