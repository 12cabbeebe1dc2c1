"""OpenAI's chats and completions on their way to the engine."""

import json

import msgspec
import pytest
from msgspec import Raw

from tests.each import each
from vllama.errors import ApiError
from vllama.models.modelfile import Modelfile
from vllama.translate.openai import chat_body, completion_body, read_chat
from vllama.translate.request import Target
from vllama.wire.openai_requests import ChatRequest, CompletionRequest

HELLO = {"role": "user", "content": "Hello!"}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 40}
PIXEL = "iVBORw0KGgo="
THINKING = {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}
NOT_THINKING = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
MODELFILE = Modelfile(
    system="You are a pirate.",
    parameters={"temperature": 0.1, "top_k": 7, "num_predict": 9, "stop": ["Arr"], "repeat_penalty": 1.5},
    messages=(("user", "Ahoy!"), ("assistant", "Ahoy!")),
)


def decode(type_, body):
    data = json.dumps(body).encode()
    members = {
        name: value for name, value in msgspec.json.decode(data, type=dict[str, Raw]).items() if value != Raw(b"null")
    }
    return members, msgspec.json.decode(data, type=type_)


def plain(body):
    """The body as it goes over the wire."""
    return json.loads(msgspec.json.encode(body))


def target(modelfile=None, *, thinks=False):
    modelfile = modelfile or Modelfile()
    return Target(thinks=thinks, modelfile=modelfile, parameters=modelfile.parameters)


def chat(body, modelfile=None, *, thinks=False, context=4096):
    asked = read_chat(*decode(ChatRequest, {"messages": [HELLO]} | body))
    return plain(chat_body(asked, target(modelfile, thinks=thinks), context))


def complete(body, modelfile=None, *, context=4096):
    return plain(completion_body(*decode(CompletionRequest, {"prompt": "x"} | body), target(modelfile), context))


def refusal(function, body):
    with pytest.raises(ApiError) as raised:
        function(body)
    assert raised.value.status == 400
    return raised.value.message


# Sampling


@each(
    ("body", "expected"),
    [
        ({}, {}),
        ({"temperature": 5, "top_p": 0}, {"temperature": 2.0, "top_p": 1e-6}),
        ({"temperature": -1, "top_p": 3, "top_k": -1}, {"temperature": 0.0, "top_k": 0}),
        ({"temperature": None, "top_p": None, "max_tokens": None, "stop": None}, {}),
        ({"max_tokens": 0}, {}),
        ({"max_tokens": -1}, {}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 10**30}, {"max_tokens": 4096}),
        ({"max_tokens": 7, "max_completion_tokens": 8}, {"max_tokens": 8}),
        ({"stop": ""}, {}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ["a", "", "b"]}, {"stop": ["a", "b"]}),
        ({"seed": -1}, {}),
        ({"seed": 3}, {"seed": 3}),
        ({"frequency_penalty": 9, "presence_penalty": -9}, {"frequency_penalty": 2.0, "presence_penalty": -2.0}),
        ({"min_p": 0.1, "repetition_penalty": 1.2}, {"min_p": 0.1, "repetition_penalty": 1.2}),
    ],
)
def test_sampling(body, expected):
    assert chat(body) == SAMPLING | {"messages": [HELLO]} | expected


def test_the_modelfile_is_below_the_request_and_openais_defaults():
    body = chat({"stop": "x"}, MODELFILE)
    assert {name: body[name] for name in body if name != "messages"} == {
        "temperature": 1.0, "top_p": 1.0, "top_k": 7, "max_tokens": 9, "stop": ["x"], "repetition_penalty": 1.5,
    }  # fmt: skip


@each(
    ("body", "text"),
    [
        ({"stop": [1]}, "invalid type for 'stop' field: float64"),
        ({"stop": 1.5}, "invalid type for 'stop' field: float64"),
        ({"stop": ["a", None]}, "invalid type for 'stop' field: <nil>"),
        ({"stop": [["a"]]}, "invalid type for 'stop' field: []interface {}"),
        ({"stop": {"a": 1}}, "invalid type for 'stop' field: map[string]interface {}"),
        ({"stop": [True]}, "invalid type for 'stop' field: bool"),
        ({"temperature": 1e300}, 'option "temperature" must be of type float32'),
    ],
)
@each("function", [chat, complete])
def test_refused_options(function, body, text):
    assert refusal(function, body) == text


# Members


@each(
    "member",
    [
        {"n": 2},
        {"logit_bias": {"5": 1}},
        {"response_format": {"type": "json_object"}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"user": "me", "priority": 3, "a": [1.50, None]},
        {"logprobs": True, "top_logprobs": 20},
        {"tools": [{"function": {"name": "f"}}], "tool_choice": "required", "parallel_tool_calls": False},
        {"num_ctx": 5, "options": {"temperature": 0}, "think": False, "keep_alive": 0},
    ],
)
def test_the_engines_own(member):
    assert chat(member) == SAMPLING | {"messages": [HELLO]} | member


@each(
    "member",
    [
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": None, "tool_choice": "required"},
        {"stream_options": {"include_usage": True}},
        {"stream": None, "user": None},
        {"top_logprobs": 5},
        {"reasoning": {"effort": "none"}, "reasoning_effort": "none"},
    ],
)
def test_without_meaning(member):
    assert chat(member) == SAMPLING | {"messages": [HELLO]}


@pytest.mark.parametrize("count", [-1, 21])
def test_too_many_probabilities(count):
    assert refusal(chat, {"top_logprobs": count}) == "top_logprobs must be between 0 and 20"


def test_a_schema_needs_no_name():
    format_ = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    sent = chat({"response_format": format_})["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "response", "schema": {"type": "object"}}}
    named = format_ | {"json_schema": {"name": "n", "schema": {}}}
    assert chat({"response_format": named})["response_format"] == named


# Thinking


@each(
    ("body", "expected"),
    [
        ({}, THINKING),
        ({"reasoning_effort": ""}, THINKING),
        ({"reasoning_effort": "none"}, NOT_THINKING),
        ({"reasoning_effort": "minimal"}, THINKING | {"reasoning_effort": "low"}),
        ({"reasoning_effort": "medium"}, THINKING | {"reasoning_effort": "medium"}),
        ({"reasoning_effort": "ultra"}, THINKING | {"reasoning_effort": "max"}),
        ({"reasoning": {"effort": "xhigh"}}, THINKING | {"reasoning_effort": "max"}),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, THINKING | {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": None}, "reasoning_effort": "high"}, THINKING | {"reasoning_effort": "high"}),
        (
            {"chat_template_kwargs": {"enable_thinking": False, "x": 1}},
            {"chat_template_kwargs": {"enable_thinking": False, "thinking": True, "x": 1}},
        ),
    ],
)
def test_thinking(body, expected):
    assert chat(body, thinks=True) == SAMPLING | {"messages": [HELLO]} | expected


def test_effort_that_there_is_not():
    assert refusal(chat, {"reasoning_effort": "x"}) == (
        'invalid reasoning value: "x" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none")'
    )


# Messages


@pytest.mark.parametrize("messages", [None, []])
def test_no_messages(messages):
    assert refusal(chat, {"messages": messages}) == "[] is too short - 'messages'"


@each(
    ("content", "text"),
    [
        (5, "invalid message content type: float64"),
        (None, "invalid message content type: <nil>"),
        (True, "invalid message content type: bool"),
        ({"type": "text"}, "invalid message content type: map[string]interface {}"),
        (["Hello!"], "invalid message format"),
        ([{"type": "nope"}], "invalid message format"),
        ([{"type": ["text"]}], "invalid message format"),
        ([{"type": "text"}], "invalid message format"),
        ([{"type": "image_url"}], "invalid message format"),
        ([{"type": "image_url", "image_url": {"url": 5}}], "invalid message format"),
        ([{"type": "image_url", "image_url": PIXEL}], "invalid image input"),
        ([{"type": "image_url", "image_url": "file:///etc/passwd"}], "invalid image input"),
        ([{"type": "image_url", "image_url": {"url": f"data:text/html;base64,{PIXEL}"}}], "invalid image input"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}], "invalid image input"),
        ([{"type": "image_url", "image_url": {"url": f"data:image/png,{PIXEL}"}}], "invalid image input"),
        ([{"type": "input_audio", "input_audio": "x"}], "invalid input_audio format"),
        ([{"type": "input_audio", "input_audio": {"format": "wav"}}], "invalid input_audio format: missing data"),
    ],
)
def test_refused_contents(content, text):
    assert refusal(chat, {"messages": [{"role": "user", "content": content}]}) == text


def test_sound_that_is_no_base64():
    part = {"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}}
    text = refusal(chat, {"messages": [{"role": "user", "content": [part]}]})
    assert text.startswith("invalid input_audio base64 data: ")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "x"}, "messages[0].role: expected string"),
        ({"role": 5, "content": "x"}, "messages[0].role: expected string"),
        ({"role": "assistant", "tool_calls": 5}, "messages[0].tool_calls: expected array"),
        ({"role": "assistant", "tool_calls": ["x"]}, "messages[0].tool_calls[0]: expected object"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function.name: expected string"),
    ],
)
def test_refused_messages(message, text):
    assert refusal(chat, {"messages": [message]}) == text


@each("arguments", ["nope", "[1]", '{"a"', 5, [1], True])
def test_refused_arguments(arguments):
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    assert refusal(chat, {"messages": [{"role": "assistant", "tool_calls": [call]}]}) == "invalid tool call arguments"


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [('{"b": 1, "a": 2}', '{"b": 1, "a": 2}'), ({"b": 1, "a": 2}, '{"b":1,"a":2}'), ("", "{}"), (None, "{}")],
)
def test_arguments(arguments, sent):
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    (message,) = chat({"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]})["messages"]
    assert message["content"] is None
    assert message["tool_calls"] == [call | {"function": {"name": "f", "arguments": sent}}]


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ({"role": "USER", "content": "x"}, {"role": "user", "content": "x"}),
        ({"role": "developer", "content": "x"}, {"role": "developer", "content": "x"}),
        (
            {"role": "assistant", "content": "x", "reasoning": "y", "refusal": None, "tool_calls": None},
            {"role": "assistant", "content": "x", "reasoning": "y"},
        ),
        ({"role": "assistant", "content": "x", "tool_calls": []}, {"role": "assistant", "content": "x"}),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": f"data:image/png;base64,{PIXEL}"}]},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}],
            },
        ),
    ],
)
def test_messages(message, sent):
    assert chat({"messages": [message]})["messages"] == [sent]


@pytest.mark.parametrize(
    "url",
    ["http://a/b.png", "https://a/b.png", f"data:;base64,{PIXEL}", f"data:image/jpeg;base64,iVBOR\r\n{PIXEL[5:]}"],
)
def test_images(url):
    message = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}, {"type": "text", "text": "x"}],
    }
    assert chat({"messages": [message]})["messages"] == [message]
    assert read_chat(*decode(ChatRequest, {"messages": [message]})).needs == {"vision"}


def test_results_of_tools_get_their_names():
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "a", "content": "2", "name": "given"},
        {"role": "tool", "tool_call_id": "b", "content": "3"},
        {"role": "tool", "tool_call_id": ["a"], "content": "4"},
    ]
    assert [message.get("name") for message in chat({"messages": messages})["messages"]] == [
        None,
        "f",
        "given",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("messages", "first"),
    [
        ([HELLO], ["system", "user", "assistant", "user"]),
        ([{"role": "SYSTEM", "content": "x"}, HELLO], ["system", "user", "assistant", "user"]),
        ([{"role": "developer", "content": "x"}], ["system", "user", "assistant", "developer"]),
    ],
)
def test_what_a_modelfile_puts_first(messages, first):
    assert [message["role"] for message in chat({"messages": messages}, MODELFILE)["messages"]] == first


# Completions


@each(
    ("body", "expected"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_tokens": 0}, {"max_tokens": 4096}),
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"max_tokens": 10**9}, {"max_tokens": 4096}),
        ({"max_tokens": 0, "echo": True}, {"max_tokens": 0, "echo": True}),
        ({"suffix": "", "stream_options": {}}, {"max_tokens": 4096}),
        ({"suffix": "y"}, {"max_tokens": 4096, "suffix": "y"}),
        ({"stream": True, "stream_options": {}}, {"max_tokens": 4096, "stream": True, "stream_options": {}}),
        ({"logprobs": 3, "best_of": 2, "n": 2}, {"max_tokens": 4096, "logprobs": 3, "best_of": 2, "n": 2}),
    ],
)
def test_completion(body, expected):
    assert complete(body) == SAMPLING | {"prompt": "x"} | expected


def test_completion_of_an_unknown_context():
    assert "max_tokens" not in complete({}, context=None)
    assert complete({"max_tokens": 10**9}, context=None)["max_tokens"] == 10**9


def test_a_modelfiles_parameters_hold_for_completions():
    assert complete({}, MODELFILE) == SAMPLING | {
        "prompt": "x", "top_k": 7, "max_tokens": 9, "stop": ["Arr"], "repetition_penalty": 1.5,
    }  # fmt: skip
