"""Anthropic's requests into the engine's, and the engine's replies into Anthropic's, one feature at a time."""

from typing import Any

import msgspec
import pytest

from tests.each import each
from vllama.errors import ApiError
from vllama.models.modelfile import Modelfile
from vllama.translate.anthropic import check_request, message_request, prompt
from vllama.translate.anthropic_reply import MessageReply, encode_event
from vllama.translate.request import Target
from vllama.wire.anthropic import MessagesRequest
from vllama.wire.openai import Completion

SAY = [{"role": "user", "content": "hi"}]
TOOL = {"name": "f", "description": "does", "input_schema": {"type": "object"}}
ENGINE_TOOL = {"type": "function", "function": {"name": "f", "description": "does", "parameters": {"type": "object"}}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
ENGINE_PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
THINKING = {"enable_thinking": True, "thinking": True}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def use(**more: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}} | more


def result(content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content} | more


def target(modelfile: Modelfile | None = None, *, templated: bool = True, thinks: bool = False) -> Target:
    modelfile = modelfile or Modelfile()
    return Target(templated, thinks, modelfile=modelfile, parameters=modelfile.parameters)


def asked(fields: dict[str, Any], of: Target | None = None, context_length: int | None = 4096) -> dict[str, Any]:
    request = msgspec.convert({"model": "m", "max_tokens": 9, "messages": SAY} | fields, MessagesRequest)
    return message_request(check_request(request, counting=False), of or target(), context_length).body


def conversation(messages: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    return asked({"messages": messages} | more)["messages"]


@each(
    ("content", "expected"),
    [
        ("hi", "hi"),
        (None, ""),
        ([], ""),
        ([text("a"), text("b")], "ab"),
        ([text("1:"), PNG, text("2:"), text("?"), PNG], [text("1:"), ENGINE_PNG, text("2:?"), ENGINE_PNG]),
        ([PNG | {"source": PNG["source"] | {"media_type": "x/y", "data": "aG\nk="}}], "image/jpeg"),
        ([{"type": "document", "source": {"type": "text", "data": "words"}}, text("?")], "words?"),
        ([{"type": "document", "source": {"type": "base64", "data": "aGk="}}, text("?")], "?"),
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "search_result", "source": "u", "content": []}], ""),
    ],
)
def test_a_users_content(content: Any, expected: Any) -> None:
    (message,) = conversation([{"role": "User", "content": content}])
    if expected == "image/jpeg":
        expected = [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,aGk="}}]
    assert message == {"role": "user", "content": expected}


def test_an_assistants_turn() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        text("a"),
        text("b"),
        use(),
        use(id="t2", input=None),
    ]
    _, message, _ = conversation([*SAY, {"role": "assistant", "content": blocks}, *SAY])
    assert message == {
        "role": "assistant",
        "content": "ab",
        "reasoning": "hm",
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "t2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ],
    }


@each(
    ("blocks", "expected"),
    [
        ([result("18")], [("tool", "18")]),
        ([result(None)], [("tool", "")]),
        ([text("so?"), result([text("1"), text("8")])], [("tool", "18"), ("user", "so?")]),
        ([result([text("see"), PNG]), text("so?")], [("tool", "see"), ("user", [ENGINE_PNG, text("so?")])]),
        ([result("no such file", is_error=True)], [("tool", "Error: no such file")]),
        (
            [result("<tool_use_error>no</tool_use_error>", is_error=True)],
            [("tool", "<tool_use_error>no</tool_use_error>")],
        ),
    ],
)
def test_results_of_tools(blocks: list[Any], expected: list[tuple[str, Any]]) -> None:
    turns = conversation([*SAY, {"role": "assistant", "content": [use()]}, {"role": "user", "content": blocks}])[2:]
    assert [(turn["role"], turn["content"]) for turn in turns] == expected
    assert turns[0]["tool_call_id"] == "t1"


@each(
    ("system", "messages", "expected"),
    [
        ("be kind", SAY, [("system", "be kind"), ("user", "hi")]),
        (
            [text("be "), text("kind") | {"cache_control": {"type": "ephemeral"}}],
            SAY,
            [("system", "be kind"), ("user", "hi")],
        ),
        ([text("x-anthropic-billing-header: a=b"), text("be kind")], SAY, [("system", "be kind"), ("user", "hi")]),
        ("x-anthropic-billing-header: a=b", SAY, [("user", "hi")]),
        ("one", [{"role": "system", "content": "two"}, *SAY], [("system", "one\n\ntwo"), ("user", "hi")]),
        (None, [*SAY, {"role": "system", "content": "late"}], [("user", "hi\n\nlate")]),
        (None, [*SAY, *SAY], [("user", "hi\n\nhi")]),
    ],
)
def test_system_texts_and_turns(system: Any, messages: list[Any], expected: list[tuple[str, str]]) -> None:
    assert [(turn["role"], turn["content"]) for turn in conversation(messages, system=system)] == expected


@each(
    ("fields", "expected"),
    [
        ({}, {"max_tokens": 9, "temperature": 0.8, "top_p": 0.9, "top_k": 40}),
        ({"max_tokens": 5000}, {"max_tokens": 4096}),
        ({"max_tokens": 2**63}, {"max_tokens": 4096}),
        (
            {"temperature": 0, "top_p": 0.5, "top_k": 0, "stop_sequences": ["a"]},
            {"temperature": 0.0, "top_p": 0.5, "top_k": 0, "stop": ["a"]},
        ),
        ({"stop_sequences": []}, {"stop": None}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "format", "schema": {"type": "object"}},
                }
            },
        ),
        ({"tools": [TOOL]}, {"tools": [ENGINE_TOOL], "tool_choice": None}),
        ({"tools": [TOOL | {"type": "custom"}], "tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": None, "tool_choice": None}),
        ({"tool_choice": {"type": "any"}}, {"tool_choice": None}),
        (
            {"tools": [{"name": "bash", "type": "bash_20250124"}]},
            {"tools": [{"type": "function", "function": {"name": "bash"}}]},
        ),
        ({"tools": [{"name": "s", "type": "tool_search_tool_regex_20251119"}]}, {"tools": None}),
        (
            {"messages": [*SAY, {"role": "assistant", "content": "It is"}]},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        ({"messages": [*SAY, {"role": "assistant", "content": [text("It"), use()]}]}, {"continue_final_message": None}),
    ],
)
def test_members_of_the_body(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    body = asked(fields)
    assert {name: body.get(name) for name in expected} == expected


@each(
    ("fields", "variables", "limits"),
    [
        ({}, True, (None, None)),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, False, (None, None)),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True, (None, 1024)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, True, ("low", None)),
        ({"output_config": {"effort": "xhigh"}}, True, ("high", None)),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}, "output_config": {"effort": "max"}},
            True,
            ("max", 9),
        ),
        ({"thinking": {"type": "new"}, "output_config": {"effort": "new"}}, True, (None, None)),
        ({"messages": [*SAY, {"role": "assistant", "content": "It is"}]}, False, (None, None)),
    ],
)
def test_thinking(fields: dict[str, Any], variables: bool, limits: tuple[Any, Any]) -> None:
    body = asked(fields, target(thinks=True))
    assert body["chat_template_kwargs"] == {"enable_thinking": variables, "thinking": variables}
    assert (body.get("reasoning_effort"), body.get("thinking_token_budget")) == limits
    other = asked(fields)
    assert not {"chat_template_kwargs", "reasoning_effort", "thinking_token_budget"} & set(other)


def test_a_modelfile() -> None:
    modelfile = Modelfile(
        "be kind",
        parameters={"temperature": 0.1, "seed": 7, "num_predict": 1},
        messages=(("user", "a"), ("assistant", "b")),
    )
    body = asked({"top_p": 0.3}, target(modelfile))
    assert [message["content"] for message in body["messages"]] == ["be kind", "a", "b", "hi"]
    assert [body[name] for name in ("temperature", "top_p", "top_k", "seed", "max_tokens")] == [0.1, 0.3, 40, 7, 9]
    contents = [message["content"] for message in asked({"system": "own"}, target(modelfile))["messages"]]
    assert contents == ["own", "a", "b", "hi"]


def test_a_model_without_a_chat_template() -> None:
    fields = {"system": "s ", "messages": [{"role": "user", "content": [text("a"), PNG, text("b")]}], "tools": [TOOL]}
    body = asked(fields, target(templated=False))
    assert body["prompt"] == "s ab"
    assert not {"messages", "tools"} & set(body)


def test_counting_asks_for_the_prompt_alone() -> None:
    fields = {"model": "m", "messages": SAY, "tools": [TOOL], "tool_choice": {"type": "any"}, "temperature": 1}
    request = check_request(msgspec.convert(fields, MessagesRequest), counting=True)
    assert prompt(request, target(thinks=True)) == {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [ENGINE_TOOL],
        "chat_template_kwargs": THINKING,
    }


def image(source: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}


@each(
    ("fields", "message"),
    [
        ({"model": ""}, "model is required"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": -1}, "max_tokens is required and must be positive"),
        ({"messages": None}, "messages is required"),
        ({"messages": [{"role": "system", "content": ""}]}, "messages: there is no text in them"),
        ({"messages": [*SAY, {"role": "tool"}]}, 'messages[1].role: expected "user", "assistant" or "system"'),
        (image(None), "invalid image source"),
        (image({}), "invalid image source type: . Only base64 images are supported."),
        (
            image({"type": "url", "url": "http://x"}),
            "invalid image source type: url. Only base64 images are supported.",
        ),
        (image({"type": "base64"}), "invalid image source: data must be a string"),
        (image({"type": "base64", "data": "?"}), "invalid base64 image data: "),
        (
            {"messages": [{"role": "assistant", "content": [use(id="")]}]},
            "tool_use block missing required 'id' field",
        ),
        (
            {"messages": [{"role": "assistant", "content": [use(name=None)]}]},
            "tool_use block missing required 'name' field",
        ),
        (
            {"messages": [{"role": "user", "content": [result(5)]}]},
            "tool_result block: content must be a string or a list of blocks",
        ),
        ({"tools": [TOOL | {"input_schema": 5}]}, 'invalid input_schema for tool "f": expected object'),
        ({"tools": [{}]}, "tools: every tool needs a name"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools: web_search_20250305 runs on Anthropic's servers and cannot be used here; leave it out",
        ),
        ({"tool_choice": {"type": "x"}}, 'tool_choice.type: expected "auto", "any", "tool" or "none"'),
        ({"tool_choice": {"type": "tool"}}, 'tool_choice.name is required where tool_choice.type is "tool"'),
    ],
)
def test_refusals(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        asked(fields)
    assert caught.value.status == 400
    assert caught.value.message.startswith(message)


# Replies


def reply_to(*deltas: dict[str, Any], finish: str | None = "stop", matched: Any = None) -> list[dict[str, Any]]:
    """The events that a stream of these deltas becomes."""
    reply = MessageReply("m", ["END"])
    sent = []
    for delta in deltas:
        chunk = {"choices": [{"delta": delta}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
        sent += reply.feed(msgspec.convert(chunk, Completion))
    last = {"choices": [{"delta": {}, "finish_reason": finish, "stop_reason": matched}]}
    return sent + reply.feed(msgspec.convert(last, Completion)) + reply.close()


def call(index: int, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "id": f"x{index}", "function": {"name": "f", "arguments": arguments}}]}


def test_blocks_follow_one_another() -> None:
    sent = reply_to({"reasoning": "\n"}, {"reasoning": "a\n"}, {"content": "\n\n"}, call(0, "{}"), call(1, '{"x":1}'))
    described = [
        (event["type"].removeprefix("content_block_"), event["index"], (event.get("content_block") or {}).get("type"))
        for event in sent
        if "index" in event
    ]
    assert described == [
        ("start", 0, "thinking"), ("delta", 0, None), ("stop", 0, None),
        ("start", 1, "tool_use"), ("delta", 1, None), ("stop", 1, None),
        ("start", 2, "tool_use"), ("delta", 2, None), ("stop", 2, None),
    ]  # fmt: skip
    assert sent[0]["message"]["usage"] == {"input_tokens": 5, "output_tokens": 1}


def test_an_empty_reply() -> None:
    assert [event["type"] for event in reply_to()] == ["message_start", "message_delta", "message_stop"]
    nothing = {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}
    assert MessageReply("m").whole(msgspec.convert(nothing, Completion))["content"] == []


@each(
    ("delta", "finish", "matched", "expected"),
    [
        ({"content": "x"}, "stop", None, ("end_turn", None)),
        ({"content": "x"}, "stop", 151645, ("end_turn", None)),
        ({"content": "x"}, "stop", "END", ("stop_sequence", "END")),
        ({"content": "x"}, "stop", "the Modelfile's", ("end_turn", None)),
        ({"content": "x"}, "length", None, ("max_tokens", None)),
        (call(0, "{}"), "stop", None, ("tool_use", None)),
        (call(0, "{}"), "tool_calls", None, ("tool_use", None)),
        (call(0, "{}"), "stop", "END", ("tool_use", None)),
        (call(0, "{}"), "length", None, ("max_tokens", None)),
    ],
)
def test_stop_reasons(delta: dict[str, Any], finish: str, matched: Any, expected: tuple[Any, Any]) -> None:
    ending = reply_to(delta, finish=finish, matched=matched)[-2]["delta"]
    assert (ending["stop_reason"], ending["stop_sequence"]) == expected
    choice = {"message": delta, "finish_reason": finish, "stop_reason": matched}
    message = MessageReply("m", ["END"]).whole(msgspec.convert({"choices": [choice]}, Completion))
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_an_event_as_bytes() -> None:
    assert encode_event({"type": "message_stop"}) == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


@pytest.mark.timeout(10)  # where every text that is added copied those before it, it would take minutes
def test_many_texts_are_joined_at_once():
    blocks = [text("x" * 1000)] * 20_000
    body = asked({"messages": [{"role": "user", "content": blocks}, *SAY]})
    assert body["messages"] == [{"role": "user", "content": "x" * 20_000_000 + "\n\nhi"}]
