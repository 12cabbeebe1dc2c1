"""What the engine is asked for Ollama's requests."""

import base64

import msgspec
import pytest

from tests.each import each
from vllama.errors import ApiError
from vllama.models.modelfile import Modelfile
from vllama.translate.request import (
    CHAT_PATH,
    COMPLETION_PATH,
    Target,
    chat_request,
    check_think,
    check_top_logprobs,
    generate_request,
)
from vllama.wire.ollama import ChatRequest, GenerateRequest

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
THINK_TEXT = '(must be "high", "medium", "low", "max", true, or false)'
PLAIN = Modelfile()
NO_THINK = 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'


def chat(*, templated=True, thinks=False, modelfile=PLAIN, **fields):
    request = msgspec.convert({"model": "m", "messages": [user("Hi")], **fields}, ChatRequest)
    return chat_request(request, Target(templated, thinks, modelfile=modelfile, parameters=modelfile.parameters))


def generate(*, templated=True, thinks=False, fim_format=None, modelfile=PLAIN, **fields):
    request = msgspec.convert({"model": "m", **fields}, GenerateRequest)
    target = Target(templated, thinks, False, fim_format, modelfile, modelfile.parameters)
    return generate_request(request, target)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


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


@each(("stream", "streams"), [(None, True), (True, True), (False, False)])
@each("ask", [chat, generate])
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


@each(
    ("format_", "sent"),
    [
        (None, None),
        ("", None),
        ("json", {"type": "json_object"}),
        ({"type": "object"}, {"type": "json_schema", "json_schema": {"name": "format", "schema": {"type": "object"}}}),
        ({}, {"type": "json_schema", "json_schema": {"name": "format", "schema": {}}}),
    ],
)
@each("ask", [chat, generate])
@each("templated", [True, False])
def test_format(ask, templated, format_, sent):
    assert ask(format=format_, templated=templated).body.get("response_format") == sent


@each(
    ("format_", "shown"),
    [("yaml", r'"\"yaml\""'), (1, '"1"'), (True, '"true"'), (["json"], r'"[\"json\"]"'), ("JSON", r'"\"JSON\""')],
)
@each("ask", [chat, generate])
def test_unknown_format(ask, format_, shown):
    with pytest.raises(ApiError) as raised:
        ask(format=format_)
    assert raised.value.status == 500
    assert raised.value.message == f'invalid format: {shown}; expected "json" or a valid JSON Schema object'


@each("value", [None, True, False, "low", "medium", "high", "max"])
def test_values_of_think(value):
    assert check_think(value) is value


@each(
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


@each(
    ("think", "enabled", "effort"),
    [(None, True, None), (True, True, None), (False, False, None), ("low", True, "low"), ("max", True, "max")],
)
@each("ask", [chat, generate])
def test_thinking_models(ask, think, enabled, effort):
    body = ask(think=think, thinks=True).body
    assert body["chat_template_kwargs"] == {"enable_thinking": enabled, "thinking": enabled}
    assert body.get("reasoning_effort") == effort


@each("think", [None, False, True])
@each("ask", [chat, generate])
def test_other_models_are_told_nothing_of_thinking(ask, think):
    assert not {"chat_template_kwargs", "reasoning_effort"} & ask(think=think).body.keys()


@each(
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


def test_generate_asks_for_the_tokens_that_context_is_made_of():
    assert generate(prompt="Hi").body["return_token_ids"] is True
    assert generate(prompt="Hi", templated=False).body["return_token_ids"] is True
    assert "return_token_ids" not in generate(prompt="Hi", raw=True).body
    assert "return_token_ids" not in chat().body


def test_raw_prompts_carry_no_thinking():
    assert "chat_template_kwargs" not in generate(prompt="Hi", raw=True, thinks=True).body


def test_chat_without_a_template():
    asked = chat(messages=[user("One "), {"role": "assistant"}, user("two")], templated=False, thinks=True)
    assert (asked.path, asked.body["prompt"]) == (COMPLETION_PATH, "One two")
    assert not {"messages", "chat_template_kwargs"} & asked.body.keys()


def test_tools():
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "$defs": {}}
    declared = {"name": "f", "description": "Does it.", "parameters": schema}
    tools = [{"type": "custom", "function": declared}, {"function": {"name": "g", "description": ""}}]
    assert chat(tools=tools).body["tools"] == [
        {"type": "function", "function": declared},
        {"type": "function", "function": {"name": "g"}},
    ]
    assert "tools" not in chat(tools=[]).body


@pytest.mark.parametrize("think", [None, False, "low"])
def test_tools_format_thinking_and_logprobs_together(think):
    fields = {"tools": [{"function": {"name": "f"}}], "format": "json", "think": think}
    asked = chat(thinks=True, logprobs=True, **fields).body
    alone = [chat(tools=fields["tools"]), chat(format="json"), chat(thinks=True, think=think), chat(logprobs=True)]
    assert asked == {name: value for one in alone for name, value in one.body.items()}


PIRATE = Modelfile(
    system="Be a pirate.",
    messages=(("user", "Who?"), ("assistant", "Arr!")),
    parameters={"temperature": 0.1, "stop": ["a", "b"], "num_ctx": 512, "num_predict": 7},
)
EXAMPLES = [user("Who?"), assistant("Arr!")]


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ([user("Hi")], [system("Be a pirate."), *EXAMPLES, user("Hi")]),
        ([system("Be kind."), user("Hi")], [system("Be kind."), *EXAMPLES, user("Hi")]),
        ([user("Hi"), system("Be kind.")], [system("Be a pirate."), *EXAMPLES, user("Hi"), system("Be kind.")]),
        ([{"role": "System", "content": "x"}], [system("x"), *EXAMPLES]),
    ],
)
def test_a_modelfiles_messages_come_first(sent, asked):
    assert chat(messages=sent, modelfile=PIRATE).body["messages"] == asked


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, [system("Be a pirate."), *EXAMPLES, user("Hi")]),
        ({"system": "Be kind."}, [system("Be kind."), *EXAMPLES, user("Hi")]),
        ({"context": [1, 2]}, [system("Be a pirate."), user("Hi")]),
    ],
)
def test_a_modelfile_in_generate(fields, asked):
    assert generate(prompt="Hi", modelfile=PIRATE, **fields).body["messages"] == asked


def test_a_modelfile_without_a_template():
    assert generate(prompt="Hi", modelfile=PIRATE, templated=False).body["prompt"] == "Be a pirate.Hi"
    assert generate(prompt="Hi", modelfile=PIRATE, raw=True).body["prompt"] == "Hi"


@pytest.mark.parametrize("ask", [chat, generate])
def test_a_modelfiles_parameters_lie_below_the_requests(ask):
    asked = ask(modelfile=PIRATE, options={"stop": ["c"], "top_k": 3, "num_predict": -1})
    sent = {name: asked.body[name] for name in ("temperature", "stop", "top_k", "top_p")}
    assert sent == {"temperature": 0.1, "stop": ["c"], "top_k": 3, "top_p": 0.9}
    assert "max_tokens" not in asked.body
    assert asked.num_ctx == 512


@each(("num_ctx", "asked"), [(None, None), (0, None), (-1, None), (1, 4), (4, 4), (8192.7, 8192)])
@each("ask", [chat, generate])
def test_num_ctx(ask, num_ctx, asked):
    assert ask(options={"num_ctx": num_ctx}).num_ctx == asked


@each(("truncate", "asked"), [(None, True), (True, True), (False, False)])
@each("ask", [chat, generate])
def test_truncate(ask, truncate, asked):
    assert ask(truncate=truncate).truncate is asked


@each(
    ("fields", "sent"),
    [
        ({}, {}),
        ({"logprobs": False, "top_logprobs": 3}, {}),
        ({"logprobs": True}, {"logprobs": True, "top_logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"logprobs": True, "templated": False}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 3, "templated": False}, {"logprobs": 3}),
    ],
)
@each("ask", [chat, generate])
def test_logprobs(ask, fields, sent):
    body = ask(**fields).body
    assert {name: body[name] for name in ("logprobs", "top_logprobs") if name in body} == sent


@pytest.mark.parametrize("value", [None, 0, 1, 20])
def test_values_of_top_logprobs(value):
    check_top_logprobs(value)


@pytest.mark.parametrize("value", [-1, 21, 10**9])
def test_wrong_values_of_top_logprobs(value):
    with pytest.raises(ApiError, match=r"^top_logprobs must be between 0 and 20$") as raised:
        check_top_logprobs(value)
    assert raised.value.status == 400


PREFILLED = {"continue_final_message": True, "add_generation_prompt": False}


@each(
    ("messages", "prefilled"),
    [
        ([user("Hi"), assistant("Arr")], True),
        ([user("Hi"), {"role": "Assistant", "content": "Arr"}], True),
        ([user("Hi"), assistant("")], False),
        ([user("Hi"), assistant(None)], False),
        ([assistant("Arr"), user("Hi")], False),
        ([user("Hi"), assistant("x") | {"tool_calls": [{"function": {"name": "f"}}]}], False),
    ],
)
def test_a_last_assistant_message_is_gone_on_with(messages, prefilled):
    body = chat(messages=messages, thinks=True).body
    assert {name: body[name] for name in PREFILLED if name in body} == (PREFILLED if prefilled else {})
    # Its thinking is over.
    assert body["chat_template_kwargs"]["enable_thinking"] is not prefilled


@pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}])
def test_tool_choice(choice):
    tools = [{"function": {"name": "f"}}]
    assert chat(tools=tools, tool_choice=choice).body["tool_choice"] == choice
    assert "tool_choice" not in chat(tools=tools).body
    assert "tool_choice" not in chat(tool_choice=choice).body, "there is nothing to choose from"


@each("choice", ["any", 5, True, [], {}, {"type": "function"}, {"type": "function", "function": {}}])
def test_wrong_tool_choice(choice):
    with pytest.raises(ApiError, match=r"^tool_choice: expected ") as raised:
        chat(tools=[{"function": {"name": "f"}}], tool_choice=choice)
    assert raised.value.status == 400


@each("kind", [{"regex": "a+"}, {"choice": ["a"]}, {"grammar": "root ::= x"}, {"json": {}}])
@each("templated", [True, False])
@each("ask", [chat, generate])
def test_structured_outputs(ask, templated, kind):
    asked = kind | {"disable_any_whitespace": True}
    assert ask(structured_outputs=asked, templated=templated).body["structured_outputs"] == asked


@each(
    ("fields", "text"),
    [
        ({"structured_outputs": {}}, "structured_outputs: expected exactly one of regex, choice, grammar, "),
        ({"structured_outputs": {"regex": None}}, "structured_outputs: expected exactly one of "),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs: expected exactly one of "),
        ({"structured_outputs": {"regex": "a"}, "format": "json"}, "structured_outputs: give either this or format"),
    ],
)
@each("ask", [chat, generate])
def test_wrong_structured_outputs(ask, fields, text):
    with pytest.raises(ApiError, match=text) as raised:
        ask(**fields)
    assert raised.value.status == 400


@pytest.mark.parametrize("ask", [chat, generate])
def test_priority_and_thinking_budget(ask):
    body = ask(priority=-3, thinking_token_budget=20, thinks=True).body
    assert (body["priority"], body["thinking_token_budget"]) == (-3, 20)
    assert "thinking_token_budget" not in ask(thinking_token_budget=20, think=False, thinks=True).body


def test_a_template_in_jinja_is_handed_on():
    assert generate(prompt="x", template="{% for m in messages %}{{ m.content }}{% endfor %}").body["chat_template"]
    assert "chat_template" not in generate(prompt="x", template="").body


@pytest.mark.parametrize(
    "template", ["{{ .Prompt }}", "{{.System}}", "{{- if .System }}x{{ end }}", "{{ range $i, $m := .Messages }}"]
)
def test_go_templates_are_refused(template):
    with pytest.raises(ApiError, match=r"^template: Go templates are not rendered; send ") as raised:
        generate(prompt="x", template=template)
    assert raised.value.status == 400


def test_a_context_precedes_all_but_raw_prompts():
    assert generate(prompt="x", context=[1, 2]).context == (1, 2)
    assert generate(prompt="x", context=[]).context == ()


@pytest.mark.parametrize(
    ("fim_format", "sent"),
    [
        ("<P>{prefix}<S>{suffix}<M>", {"prompt": "<P>f({<S>})<M>"}),
        (None, {"prompt": "f({", "suffix": "})"}),
    ],
)
@pytest.mark.parametrize("templated", [True, False])
def test_a_suffix_makes_a_gap(fim_format, sent, templated):
    fields = {"prompt": "f({", "suffix": "})", "system": "unread", "context": [1], "logprobs": True}
    asked = generate(fim_format=fim_format, templated=templated, **fields)
    assert asked.path == COMPLETION_PATH
    assert {name: asked.body.get(name) for name in sent} == sent
    assert ("suffix" in asked.body) is ("suffix" in sent)
    assert asked.body["logprobs"] == 0
    assert asked.body["return_token_ids"] is True, "its reply has a context"


def test_a_raw_prompt_holds_its_own_marks():
    asked = generate(fim_format="<P>{prefix}<S>{suffix}<M>", prompt="<P>a<S>b<M>", suffix="b", raw=True)
    assert asked.body["prompt"] == "<P>a<S>b<M>"
    assert not {"suffix", "return_token_ids"} & asked.body.keys()
