"""OpenAI's responses on their way to the engine."""

import json

import msgspec
import pytest
from msgspec import Raw

from tests.each import each
from vllama.errors import ApiError
from vllama.models.modelfile import Modelfile
from vllama.translate.request import Target
from vllama.translate.responses import read_response_request, response_body
from vllama.wire.openai_requests import ResponsesRequest

SAMPLING = {"temperature": 1.0, "top_p": 0.9, "top_k": 40}
HELLO = {"role": "user", "content": "Hello!"}
MODELFILE = Modelfile(system="You are a pirate.", parameters={"num_predict": 9}, messages=(("user", "Ahoy!"),))
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def read(body):
    data = json.dumps({"input": "Hello!"} | body).encode()
    members = msgspec.json.decode(data, type=dict[str, Raw])
    return read_response_request(
        {name: value for name, value in members.items() if value != Raw(b"null")},
        msgspec.json.decode(data, type=ResponsesRequest),
    )


def ask(body, modelfile=None, *, thinks=False):
    modelfile = modelfile or Modelfile()
    target = Target(thinks=thinks, modelfile=modelfile, parameters=modelfile.parameters)
    sent = response_body(read(body), target, 4096)
    return json.loads(msgspec.json.encode(sent))


@each(
    ("body", "expected"),
    [
        ({}, {}),
        ({"temperature": 5, "top_p": 0}, {"temperature": 2.0, "top_p": 1e-6}),
        ({"max_output_tokens": 7}, {"max_output_tokens": 7}),
        ({"max_output_tokens": 0}, {}),
        ({"max_output_tokens": 10**9}, {"max_output_tokens": 4096}),
        ({"background": True, "include": ["reasoning.encrypted_content", "x"], "user": None}, {}),
        ({"include": ["message.output_text.logprobs"]}, {"include": ["message.output_text.logprobs"]}),
        ({"tools": [], "tool_choice": "required", "parallel_tool_calls": True}, {}),
        (
            {"tools": [{"type": "function", "name": "f"}], "tool_choice": "required"},
            {"tools": [{"type": "function", "name": "f"}], "tool_choice": "required"},
        ),
        ({"instructions": "x", "store": False}, {"instructions": "x", "store": False}),
        ({"reasoning": {"effort": "none"}}, {}),
        (
            {"text": {"format": {"type": "json_schema", "schema": {}}, "verbosity": "low"}},
            {"text": {"format": {"name": "response", "type": "json_schema", "schema": {}}, "verbosity": "low"}},
        ),
        ({"text": {"format": {"type": "text"}}}, {"text": {"format": {"type": "text"}}}),
    ],
)
def test_members(body, expected):
    assert ask(body) == SAMPLING | {"input": [HELLO]} | expected


def test_a_tool_with_a_grammar():
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'}
    free = {"type": "custom", "name": "f", "format": {"type": "text"}}
    sent = ask({"tools": [{"type": "custom", "name": "f", "description": "Edits.", "format": grammar}, free]})["tools"]
    assert sent == [free | {"description": 'Edits.\n\nIts input follows this lark grammar:\nstart: "x"'}, free]


@pytest.mark.parametrize(
    ("reasoning", "enabled", "expected"),
    [
        (None, True, {}),
        ({"summary": "auto"}, True, {}),
        ({"effort": "none"}, False, {"reasoning": {"effort": "none"}}),
        ({"effort": "ultra", "summary": "auto"}, True, {"reasoning": {"effort": "max", "summary": "auto"}}),
    ],
)
def test_thinking(reasoning, enabled, expected):
    variables = {"chat_template_kwargs": {"enable_thinking": enabled, "thinking": enabled}}
    assert ask({"reasoning": reasoning}, thinks=True) == SAMPLING | {"input": [HELLO]} | variables | expected


@pytest.mark.parametrize(
    ("body", "roles"),
    [
        ({}, ["system", "user", "user"]),
        ({"instructions": "x"}, ["user", "user"]),
        ({"input": [{"role": "system", "content": "x"}]}, ["system", "user"]),
    ],
)
def test_what_a_modelfile_puts_first(body, roles):
    sent = ask(body, MODELFILE)
    assert [item["role"] for item in sent["input"]] == roles
    assert sent["max_output_tokens"] == 9


@pytest.mark.parametrize(
    ("item", "sent"),
    [
        ({"role": "USER", "content": "x"}, {"type": "message", "role": "user", "content": "x"}),
        (
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}], "id": None},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
        ),
        (
            {
                "type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}],
            },
            {"type": "message", "role": "assistant", "content": "ab"},
        ),
        (
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": {"x": 1}},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": '{"x":1}'},
        ),
        (
            {"type": "function_call_output", "call_id": "a", "output": "1"},
            {"type": "function_call_output", "call_id": "a", "output": "1"},
        ),
    ],
)  # fmt: skip
def test_items(item, sent):
    assert ask({"input": [item]})["input"] == [sent]


@pytest.mark.parametrize(
    "members",
    [
        {"summary": [], "encrypted_content": "I think."},
        {"summary": [{"type": "summary_text", "text": "I think."}], "encrypted_content": "gAAAAB"},
        {"summary": [], "content": [{"type": "reasoning_text", "text": "I think."}]},
    ],
)
def test_thinking_that_comes_back(members):
    (item,) = ask({"input": [{"type": "reasoning", "id": "rs_1"} | members]})["input"]
    content = [{"type": "reasoning_text", "text": "I think."}]
    assert item == {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}


@pytest.mark.parametrize("item", [{"type": "reasoning", "summary": []}, {"type": "web_search_call", "id": "ws_1"}])
def test_items_without_content(item):
    assert ask({"input": [item, HELLO]})["input"] == [{"type": "message"} | HELLO]


def test_needs():
    image = {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]}
    assert read({"input": [image], "tools": [{"type": "function", "name": "f"}]}).needs == {"vision", "tools"}
    assert read({}).needs == frozenset()


@each(
    ("body", "text"),
    [
        ({"input": None}, "input must be a string or array: got <nil>"),
        ({"input": 5}, "input must be a string or array: got float64"),
        ({"input": []}, "input must be a string or array: the array is empty"),
        ({"input": ["x"]}, "input[0]: expected object"),
        ({"input": [{"content": "x"}]}, "input[0]: input item missing required 'type' field"),
        ({"input": [HELLO, {"type": "nope"}]}, 'input[1]: unknown input item type: "nope"'),
        ({"input": [{"role": 5, "content": "x"}]}, "input[0].role: expected string"),
        ({"input": [{"role": "user"}]}, "input[0].content: expected string or array"),
        ({"input": [{"role": "user", "content": ["x"]}]}, "input[0].content[0]: expected object"),
        (
            {"input": [{"role": "user", "content": [{"type": "nope"}]}]},
            "input[0].content[0]: unknown content type: nope",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": 5}]}]},
            "input[0].content[0].text: expected string",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "file inputs are not currently supported"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
            "input[0].content[0].image_url: expected string",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "invalid image input",
        ),
        ({"input": [{"type": "function_call", "call_id": "a"}]}, "input[0].name: expected string"),
        (
            {"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "x"}]},
            "input[0]: failed to parse function call arguments: expected a JSON object",
        ),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id: expected string"),
        ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "input[0].output: expected string or array"),
        ({"input": [{"type": "reasoning", "encrypted_content": 5}]}, "input[0].encrypted_content: expected string"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort: expected string"),
        (
            {"reasoning": {"effort": "x"}},
            'invalid reasoning value: "x" '
            '(must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none")',
        ),
        (
            {"previous_response_id": "resp_1"},
            "previous_response_id: responses are not kept after their reply: send the whole conversation as input",
        ),
        (
            {"conversation": "conv_1"},
            "conversation: responses are not kept after their reply: send the whole conversation as input",
        ),
    ],
)
def test_refusals(body, text):
    with pytest.raises(ApiError) as raised:
        read(body)
    assert (raised.value.status, raised.value.message) == (400, text)
