"""Bodies into checked Structs."""

import json

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from vllama.admission import Admission
from vllama.errors import ApiError
from vllama.routes._reading import read_body
from vllama.wire.ollama import ChatRequest, GenerateRequest, Named


class Gateway:
    max_body = 2**20
    admission = Admission()


def request(body):
    """A request whose body arrives in two parts."""
    halves = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def receive():
        return {"type": "http.request", "body": halves.pop(0), "more_body": bool(halves)}

    app = Starlette()
    app.state.gateway = Gateway()
    return Request({"type": "http", "method": "POST", "path": "/", "headers": [], "app": app}, receive)


async def read(body, type_=ChatRequest):
    return await read_body(request(body if isinstance(body, bytes) else body.encode()), type_)


async def refusal(body, type_=ChatRequest):
    with pytest.raises(ApiError) as raised:
        await read(body, type_)
    assert raised.value.status == 400
    return raised.value.message


async def test_a_body():
    body = await read('{"model": "m", "messages": [{"role": "user", "content": "grüß 🙂"}], "unknown": {"a": []}}')
    assert (body.model, body.messages[0].content) == ("m", "grüß 🙂")


@pytest.mark.parametrize("body", ["null", " null\n", "{}", '{"model": null, "messages": null, "options": null}'])
async def test_bodies_that_say_nothing(body):
    assert await read(body) == ChatRequest()


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ('{"model": "\\ud83d hi"}', "\ufffd hi"),
        ('{"model": "hi \\ud83d"}', "hi \ufffd"),
        (b'{"model": "\xff\xfe"}', "\ufffd\ufffd"),
        ('{"model": "\\ud83d\\ude00"}', "\U0001f600"),
    ],
)
async def test_halves_of_characters_are_replaced(body, model):
    assert (await read(body)).model == model


@pytest.mark.parametrize("body", ["", " ", "\n\t\r\n"])
async def test_no_body(body):
    assert await refusal(body) == "missing request body"


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"x"',
        '{"model": }',
        "{'model': 'x'}",
        "model",
        '{"options": {"temperature": NaN}}',
        b"\xff",
        '{"format": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"options": {"seed": 1' + "0" * 5000 + "}}",
    ],
)
async def test_bodies_that_are_no_json(body):
    assert (await refusal(body)).startswith(("the request's body is not JSON: ", "invalid request: "))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("[]", "invalid request: expected object, got array"),
        ("3", "invalid request: expected object, got integer"),
        ('"x"', "invalid request: expected object, got string"),
        ('{"model": 1}', "invalid request: model: expected string, got integer"),
        ('{"stream": "yes"}', "invalid request: stream: expected boolean, got string"),
        ('{"options": []}', "invalid request: options: expected object, got array"),
        ('{"options": {"seed": 1e400}}', "invalid request: number out of range"),
        ('{"messages": {}}', "invalid request: messages: expected array, got object"),
        (
            '{"messages": [{"role": "user"}, {"content": [{"type": "text"}]}]}',
            "invalid request: messages[1].content: expected string, got array",
        ),
        ('{"messages": [{"images": [1]}]}', "invalid request: messages[0].images[0]: expected string, got integer"),
        ('{"tools": [{}]}', "invalid request: tools[0]: object missing required field function"),
    ],
)
async def test_wrong_types_name_the_field(body, error):
    assert await refusal(body) == error


@pytest.mark.parametrize("rest", [" x", "}", '{"model": "second"}', "\n\n[", "\x00"])
async def test_what_follows_the_first_value_is_ignored(rest):
    assert (await read('{"model": "m"}' + rest)).model == "m"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"Model": "m", "STREAM": false}', {"model": "m", "stream": False}),
        ('{"model": "first", "model": "second"}', {"model": "second"}),
        ('{"model": "first", "Model": "second"}', {"model": "second"}),
        ('{"model": "m", "Options": {"Seed": 1}}', {"model": "m", "options": {"Seed": 1}}),
        ('{"KEEP_ALIVE": 5, "Format": {"Type": null}}', {"keep_alive": 5, "format": {"Type": None}}),
        ('{"Messages": [{"Role": "user", "ToolName": "x"}]}', {"messages": [{"role": "user"}]}),
    ],
)
async def test_keys_in_any_case(body, expected):
    assert await read(body) == msgspec.convert(expected, ChatRequest)


async def test_keys_that_are_data_are_left_alone():
    schema = {"type": "object", "properties": {"filePath": {"type": "string", "default": None}}}
    call = {"function": {"name": "f", "arguments": {"filePath": None}}}
    sent = {
        "messages": [{"role": "assistant", "tool_calls": [call]}],
        "tools": [{"function": {"name": "f", "parameters": schema}}],
    }
    body = await read(json.dumps(sent))
    assert body.tools[0].function.parameters == schema
    assert body.messages[0].tool_calls[0].function.arguments == {"filePath": None}


async def test_null_is_absent_everywhere():
    body = await read(
        '{"model": "m", "messages": [{"role": null, "content": null, "tool_calls": [{"id": null, "function":'
        ' {"index": null, "name": "f", "arguments": null}}]}], "tools": [{"type": null, "function": {"name": null}}]}'
    )
    assert body.messages[0].role == ""
    assert body.messages[0].tool_calls[0].function.arguments == {}
    assert body.tools[0].function.name == ""


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ('{"model": "a"}', "a"),
        ('{"name": "b"}', "b"),
        ('{"model": "", "name": "b"}', "b"),
        ('{"model": "a", "name": "b"}', "a"),
        ("{}", ""),
    ],
)
async def test_the_model_wanted(body, wanted):
    assert (await read(body, Named)).wanted == wanted


async def test_generate():
    body = await read('{"model": "m", "prompt": "Hi", "raw": true, "images": [], "suffix": ""}', GenerateRequest)
    assert (body.prompt, body.raw, body.images, body.stream) == ("Hi", True, [], None)


@pytest.mark.parametrize("token", ["-1", "4294967296", "1.5", '"a"', "true"])
async def test_a_context_of_no_tokens(token):
    body = '{"model": "m", "context": [1, ' + token + "]}"
    assert (await refusal(body, GenerateRequest)).startswith("invalid request: context[1]: expected integer")
