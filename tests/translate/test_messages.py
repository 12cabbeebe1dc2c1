"""Conversations of Ollama's in OpenAI's form."""

import base64
import json

import msgspec
import pytest

from tests.each import each
from vllama.errors import ApiError
from vllama.translate.messages import check_images, engine_messages, media_abilities
from vllama.wire.ollama import Message

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()


def messages(*sent):
    return engine_messages(msgspec.convert(list(sent), list[Message]))


def user(text):
    return {"role": "user", "content": text}


def call(name, arguments=None, **fields):
    return {"function": {"name": name, "arguments": arguments or {}}, **fields}


@each(
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


@each(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"GIF89a", "image/gif"),
        (b"GIF87a", "image/gif"),
        (b"BM\x00\x00", "image/bmp"),
        (b"something else", "image/jpeg"),
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


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "wav"),
        (b"ID3\x04\x00\x00", "mp3"),
        (b"\xff\xfb\x90\x00", "mp3"),
        (b"\xff\xf3\x90\x00", "mp3"),
    ],
)
def test_sound_among_the_images(data, kind):
    encoded = base64.b64encode(data).decode()
    (message,) = messages({"role": "user", "content": "x", "images": [encoded]})
    assert message["content"][1] == {"type": "input_audio", "input_audio": {"data": encoded, "format": kind}}
    assert media_abilities([encoded, PNG]) == {"audio", "vision"}


@each(
    ("image", "position"),
    [
        ("data:image/png;base64," + PNG, 4), ("a", 1), ("****", 0), ("YQ", 2), ("é", 0), ("aGk=aGk=", 3), ("YQ\n=", 3),
    ],
)  # fmt: skip
def test_no_images(image, position):
    with pytest.raises(ApiError, match=rf"^illegal base64 data at input byte {position}: ") as raised:
        check_images([PNG, image])
    assert raised.value.status == 400


def test_images():
    check_images([PNG, "", PNG + "\r\n", base64.encodebytes(bytes(300)).decode()])


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


@each("text", ["{", "[]", "1", "null", "a", "[" * 100_000])
def test_arguments_that_are_no_object(text):
    with pytest.raises(ApiError, match=r'^the arguments of a call of "f" are no JSON object$') as raised:
        messages({"role": "assistant", "tool_calls": [call("f", text)]})
    assert raised.value.status == 400


@each(
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


@pytest.mark.timeout(5)
def test_many_results_that_answer_nothing():
    calls = [call("f", id=f"call_{number}") for number in range(50_000)]
    results = [{"role": "tool", "content": "x", "tool_name": "g"}] * 50_000
    translated = messages({"role": "assistant", "tool_calls": calls}, *results)
    assert {message["tool_call_id"] for message in translated[1:]} == {"call_unknown"}
