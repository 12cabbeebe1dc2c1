"""/v1/messages and /v1/messages/count_tokens: Anthropic's protocol over the engine's chats."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from tests.conftest import Alone, Engines
from tests.each import each
from tests.fake_engine import Silence, Stream, chat_events, events, hang_up, refusal, whole
from vllama.demo.dialogues import CITY_SCHEMA, WEATHER_TOOL, by_name
from vllama.errors import EngineError
from vllama.routes._failures import DIED
from vllama.translate.failure import CONTEXT_EXCEEDED

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO = by_name("hello")
SUM = by_name("sum")
COLD = {"temperature": 0}
OFF = {"thinking": {"type": "disabled"}}
SAY: list[Any] = [{"role": "user", "content": "Hello!"}]
ASK = {"model": "demo", "max_tokens": 200, "messages": SAY, "temperature": 0}
WEATHER = {
    "name": WEATHER_TOOL["function"]["name"],
    "description": WEATHER_TOOL["function"]["description"],
    "input_schema": WEATHER_TOOL["function"]["parameters"],
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def question(name: str) -> dict[str, Any]:
    return {"messages": [user(by_name(name).messages[0]["content"])]}


def error(message: str, kind: str) -> dict[str, str]:
    return {"type": kind, "message": message}


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events' data, after a look at their names."""
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert re.fullmatch("req_[0-9a-f]{24}", response.headers["request-id"])
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    pairs = [block.removeprefix("event: ").split("\ndata: ") for block in blocks]
    assert [name for name, _ in pairs] == [json.loads(data)["type"] for _, data in pairs]
    return [json.loads(data) for _, data in pairs]


def blocks_of(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content blocks that a stream adds up to; each begins and ends, one after another."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in stream:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert (is_open, index) == (False, len(blocks))
                blocks.append(dict(block))
                is_open = True
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert (is_open, index) == (True, len(blocks) - 1)
                if delta["type"] == "input_json_delta":
                    blocks[-1]["input"] = json.loads(delta["partial_json"])
                else:
                    kind = delta["type"].removesuffix("_delta")
                    blocks[-1][kind] += delta[kind]
            case {"type": "content_block_stop", "index": index}:
                assert (is_open, index) == (True, len(blocks) - 1)
                is_open = False
    assert not is_open
    return blocks


def thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": ""}


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def calls(blocks: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    assert all(re.fullmatch("call_[a-z0-9]{8}", block["id"]) for block in blocks if block["type"] == "tool_use")
    return [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]


# Recorded conversations


async def test_message(api: httpx.AsyncClient) -> None:
    response = await api.post(PATH, json=ASK | {"model": "Demo:latest"})
    reply = response.json()
    assert re.fullmatch("msg_[0-9a-f]{24}", reply.pop("id"))
    assert re.fullmatch("req_[0-9a-f]{24}", response.headers["request-id"])
    usage = reply.pop("usage")
    assert reply == {
        "type": "message",
        "role": "assistant",
        "model": "Demo:latest",
        "content": [thinking(HELLO.thinking), text(HELLO.answer)],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert list(usage) == ["input_tokens", "output_tokens"]
    assert all(usage.values())


async def test_streamed_message(api: httpx.AsyncClient) -> None:
    stream = events_of(await api.post(PATH, json=ASK | {"stream": True}))
    assert blocks_of(stream) == [thinking(HELLO.thinking), text(HELLO.answer)]
    start, *_, delta, stop = stream
    assert start["message"].pop("id").startswith("msg_")
    tokens = start["message"].pop("usage")["input_tokens"]
    assert start["message"] == {
        "type": "message", "role": "assistant", "model": "demo", "content": [], "stop_reason": None,
        "stop_sequence": None,
    }  # fmt: skip
    whole = (await api.post(PATH, json=ASK)).json()
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"] == whole["usage"]
    assert tokens == whole["usage"]["input_tokens"]
    assert stop == {"type": "message_stop"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("more", "content", "stop_reason", "stop_sequence"),
    [
        (OFF, [text(HELLO.answer)], "end_turn", None),
        (question("sum") | OFF | {"stop_sequences": ["2", "="]}, [text("17 + ")], "stop_sequence", "2"),
        (question("sum") | OFF | {"max_tokens": 3}, [text("17 + ")], "max_tokens", None),
        (
            question("sum") | {"thinking": {"type": "enabled", "budget_tokens": 3}},
            [thinking("17 +"), text(SUM.answer)],
            "end_turn",
            None,
        ),
        (
            question("pirate-hello") | {"messages": SAY, "system": "You are a pirate."} | OFF,
            [text(by_name("pirate-hello").answer)],
            "end_turn",
            None,
        ),
        (
            question("json-city") | OFF | {"output_config": {"format": {"type": "json_schema", "schema": CITY_SCHEMA}}},
            [text(by_name("json-city").answer)],
            "end_turn",
            None,
        ),
    ],
    ids=["no thinking", "stop sequence", "max_tokens", "budget", "system", "schema"],
)
async def test_what_a_request_can_ask_for(
    api: httpx.AsyncClient,
    more: dict[str, Any],
    content: Any,
    stop_reason: str,
    stop_sequence: str | None,
    stream: bool,
) -> None:
    response = await api.post(PATH, json=ASK | more | {"stream": stream})
    if stream:
        sent = events_of(response)
        assert blocks_of(sent) == content
        ending = sent[-2]["delta"]
    else:
        ending = response.json()
        assert ending["content"] == content
    assert (ending["stop_reason"], ending["stop_sequence"]) == (stop_reason, stop_sequence)


async def test_a_conversation_with_tools(api: httpx.AsyncClient) -> None:
    two = by_name("weather-two")
    asked = ASK | question("weather-two") | {"tools": [WEATHER]}
    stream = events_of(await api.post(PATH, json=asked | {"stream": True}))
    first, *called = blocks_of(stream)
    assert first == thinking(two.thinking)
    assert calls(called) == [(call.name, call.arguments) for call in two.tool_calls]
    assert stream[-2]["delta"]["stop_reason"] == "tool_use"
    whole = (await api.post(PATH, json=asked)).json()
    assert calls(whole["content"]) == calls(called)
    assert whole["stop_reason"] == "tool_use"
    # Ids differ from run to run; what the engine is asked must not.
    for number, call in enumerate(called):
        call["id"] = f"toolu_{number}"
    weathers = ('{"temperature": 18, "condition": "sunny"}', '{"temperature": 23, "condition": "cloudy"}')
    results = [
        {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": [text(weather)]}
        for number, weather in enumerate(weathers)
    ]
    history = [*asked["messages"], {"role": "assistant", "content": [first, *called]}, user(results)]
    answer = (await api.post(PATH, json=asked | OFF | {"messages": history})).json()
    assert answer["content"] == [text(by_name("weather-two-results").answer)]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "any"}, ["Paris"]),
        ({"type": "tool", "name": "get_weather"}, ["Paris"]),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["Paris"]),
        ({"type": "none"}, []),
    ],
    ids=["any", "tool", "one", "none"],
)
async def test_tool_choice(api: httpx.AsyncClient, choice: dict[str, Any], expected: list[str]) -> None:
    body = ASK | question("weather-two") | OFF | {"tools": [WEATHER], "tool_choice": choice}
    reply = (await api.post(PATH, json=body)).json()
    assert [arguments["city"] for _, arguments in calls(reply["content"])] == expected
    assert reply["stop_reason"] == ("tool_use" if expected else "end_turn")


async def test_a_model_without_a_chat_template(api: httpx.AsyncClient, engines: Engines) -> None:
    reply = (await api.post(PATH, json=ASK | {"model": "plain", "messages": [user("The quick brown fox")]})).json()
    assert reply["content"] == [text(" jumps over the lazy dog.")]
    assert engines["plain"].asked[-1].path == "/v1/completions"


@pytest.mark.parametrize("more", [{}, OFF, OFF | {"tools": [WEATHER]}, {"system": "You are a pirate."}])
async def test_count_tokens_says_what_a_message_uses(api: httpx.AsyncClient, more: dict[str, Any]) -> None:
    counted = await api.post(COUNT, json={"model": "demo", "messages": SAY} | more)
    assert list(counted.json()) == ["input_tokens"]
    assert re.fullmatch("req_[0-9a-f]{24}", counted.headers["request-id"])
    message = await api.post(PATH, json=ASK | {"max_tokens": 1} | more)
    assert counted.json()["input_tokens"] == message.json()["usage"]["input_tokens"]


async def test_count_tokens_of_a_model_without_a_chat_template(api: httpx.AsyncClient) -> None:
    counted = await api.post(COUNT, json={"model": "plain", "messages": [user("The quick brown fox")]})
    assert counted.json()["input_tokens"] > 3


# The official client


async def test_the_official_client(gateway_url: str, engines: Engines) -> None:
    import anthropic  # here, as it takes a second

    async with anthropic.AsyncAnthropic(base_url=gateway_url, api_key="any", max_retries=0) as client:
        message = await client.messages.create(model="demo", max_tokens=200, messages=SAY, extra_body=COLD)
        thought, said = message.content
        assert isinstance(thought, anthropic.types.ThinkingBlock)
        assert isinstance(said, anthropic.types.TextBlock)
        assert (thought.thinking, thought.signature, said.text) == (HELLO.thinking, "", HELLO.answer)
        assert message._request_id is not None

        async with client.messages.stream(model="demo", max_tokens=200, messages=SAY, extra_body=COLD) as stream:
            assert "".join([part async for part in stream.text_stream]) == HELLO.answer
            final = await stream.get_final_message()
        assert [block.to_dict() for block in final.content] == [block.to_dict() for block in message.content]
        assert (final.stop_reason, final.usage) == ("end_turn", message.usage)

        async with client.messages.stream(
            model="demo",
            max_tokens=200,
            messages=question("weather-two")["messages"],
            tools=[WEATHER],  # type: ignore[list-item]
            extra_body=COLD,
        ) as stream:
            called = await stream.get_final_message()
        assert called.stop_reason == "tool_use"
        assert [block.input for block in called.content if block.type == "tool_use"] == [
            call.arguments for call in by_name("weather-two").tool_calls
        ]

        counted = await client.messages.count_tokens(model="demo", messages=SAY)
        assert counted.input_tokens == message.usage.input_tokens

        with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found") as caught:
            await client.messages.create(model="nope", max_tokens=1, messages=SAY)
        assert caught.value.request_id is not None
        assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]


async def test_the_official_client_sees_an_engine_go(alone: Alone) -> None:
    import anthropic  # here, as it takes a second

    reply = Stream(*chat_events("Hel", "lo")[:2], end="cut")
    alone.engine.script(reply)
    async with anthropic.AsyncAnthropic(base_url=alone.url, api_key="any", max_retries=0) as client:
        stream = await client.messages.create(model="demo", max_tokens=9, messages=SAY, stream=True)
        assert (await anext(stream)).type == "message_start"
        reply.may_cut.set()
        with pytest.raises(anthropic.APIStatusError, match=DIED):
            [event async for event in stream]


# Refusals


@each(
    ("body", "status", "expected"),
    [
        (b"", 400, error("EOF", "invalid_request_error")),
        (b"null", 400, error("model is required", "invalid_request_error")),
        (
            ASK | {"max_tokens": "x"},
            400,
            error("invalid request: max_tokens: expected integer, got string", "invalid_request_error"),
        ),
        (
            ASK | {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            400,
            error(
                "invalid request: messages[0].content[0].text: expected string, got integer", "invalid_request_error"
            ),
        ),
        (ASK | {"model": " "}, 400, error("model is required", "invalid_request_error")),
        (
            ASK | {"max_tokens": 0, "messages": []},
            400,
            error("max_tokens is required and must be positive", "invalid_request_error"),
        ),
        (ASK | {"model": "nope", "messages": []}, 400, error("messages is required", "invalid_request_error")),
        (
            ASK | {"model": "nope", "messages": [user([{"type": "image"}])]},
            400,
            error("invalid image source", "invalid_request_error"),
        ),
        (ASK | {"model": "a b"}, 400, error("invalid model name", "invalid_request_error")),
        (ASK | {"model": "Nope"}, 404, error("model 'Nope' not found", "not_found_error")),
        (
            ASK | {"model": "demo-embed", "tools": [WEATHER]},
            400,
            error('"demo-embed" does not support chat', "invalid_request_error"),
        ),
        (
            ASK | {"model": "plain", "tools": [WEATHER]},
            400,
            error("registry.ollama.ai/library/plain:latest does not support tools", "invalid_request_error"),
        ),
        (
            ASK | {"messages": [user([IMAGE])]},
            400,
            error("registry.ollama.ai/library/demo:latest does not support vision", "invalid_request_error"),
        ),
        (
            ASK | {"temperature": 1e300},
            400,
            error('option "temperature" must be of type float32', "invalid_request_error"),
        ),
    ],
)
async def test_refusals(
    api: httpx.AsyncClient, engines: Engines, body: Any, status: int, expected: dict[str, Any]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await api.post(PATH, content=content)
    assert (response.status_code, response.json()["error"]) == (status, expected)
    assert list(response.json()) == ["type", "error", "request_id"]
    assert response.json()["type"] == "error"
    assert response.json()["request_id"] == response.headers["request-id"]
    assert re.fullmatch("req_[0-9a-f]{24}", response.headers["request-id"])
    assert all(not fake.asked for fake in engines.fakes.values())


async def test_counting_needs_no_max_tokens_but_all_else(api: httpx.AsyncClient) -> None:
    for body, message in [
        ({}, "model is required"),
        ({"model": "demo"}, "messages is required"),
        ({"model": "demo-embed", "messages": SAY}, '"demo-embed" does not support chat'),
    ]:
        response = await api.post(COUNT, json=body)
        assert (response.status_code, response.json()["error"]["message"]) == (400, message)


# Faults of the engine


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("behaviour", "status", "expected"),
    [
        (refusal(400, "top_p must be in (0, 1]"), 400, error("top_p must be in (0, 1]", "invalid_request_error")),
        (
            refusal(400, "This model's maximum context length is 4096 tokens."),
            400,
            error(CONTEXT_EXCEEDED, "invalid_request_error"),
        ),
        (
            refusal(503, "queue is full", "ServiceUnavailable"),
            503,
            error("server busy, please try again.  maximum pending requests exceeded", "overloaded_error"),
        ),
        (
            refusal(500, "EngineCore died", "InternalServerError"),
            500,
            error("an error was encountered while running the model: EngineCore died", "api_error"),
        ),
    ],
)
async def test_an_engines_error_before_the_first_byte(
    alone: Alone, path: str, behaviour: Any, status: int, expected: dict[str, Any], stream: bool
) -> None:
    alone.engine.script(behaviour)
    response = await alone.api.post(path, json=ASK | {"stream": stream})
    assert (response.status_code, response.json()["error"]) == (status, expected)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_is_gone(alone: Alone, stream: bool) -> None:
    alone.engine.script(hang_up, hang_up)
    response = await alone.api.post(PATH, json=ASK | {"stream": stream})
    assert (response.status_code, response.json()["error"]["type"]) == (500, "api_error")
    assert response.json()["error"]["message"].startswith(DIED)


async def test_a_model_that_does_not_load(alone: Alone) -> None:
    alone.next_place["failure"] = EngineError("no memory", "take a smaller model")
    response = await alone.api.post(PATH, json=ASK | {"stream": True})
    expected = error("no memory: take a smaller model", "api_error")
    assert (response.status_code, response.json()["error"]) == (500, expected)


@pytest.mark.parametrize(("path", "action"), [(PATH, "chat"), (COUNT, "counting tokens")])
async def test_a_route_or_a_model_that_the_engine_does_not_have(alone: Alone, path: str, action: str) -> None:
    alone.engine.script(
        whole({"detail": "Not Found"}, 404), refusal(404, "The model `demo:latest` does not exist.", "NotFoundError")
    )
    route = await alone.api.post(path, json=ASK)
    expected = error(f'"demo" does not support {action}', "invalid_request_error")
    assert (route.status_code, route.json()["error"]) == (400, expected)
    model = await alone.api.post(path, json=ASK)
    assert (model.status_code, model.json()["error"]) == (404, error("model 'demo' not found", "not_found_error"))


async def test_an_engine_that_cannot_limit_thinking_is_asked_again(alone: Alone) -> None:
    chat = {"choices": [{"message": {"content": "Hello!"}, "finish_reason": "stop"}]}
    alone.engine.script(
        refusal(400, "thinking_token_budget is set but reasoning_config is not configured."), whole(chat)
    )
    reply = await alone.api.post(PATH, json=ASK | {"thinking": {"type": "enabled", "budget_tokens": 1024}})
    assert reply.json()["content"] == [text("Hello!")]
    first, second = (asked.body for asked in alone.engine.asked)
    assert first == second | {"thinking_token_budget": 1024}


@pytest.mark.parametrize("reply", [whole(b"no JSON"), Stream(b"data: no JSON\n\n")])
async def test_a_reply_that_cannot_be_read(alone: Alone, reply: Any) -> None:
    alone.engine.script(reply)
    response = await alone.api.post(PATH, json=ASK | {"stream": isinstance(reply, Stream)})
    assert response.status_code == 500
    assert response.json()["error"]["message"].startswith("the engine's reply cannot be read")


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (events({"error": {"message": "out of memory", "code": 500}}, "[DONE]"), "out of memory"),
        (events("garbage"), "the engine's reply cannot be read"),
        ([], "its reply broke off"),
    ],
)
async def test_a_stream_that_fails_ends_in_an_error(alone: Alone, end: list[bytes], message: str) -> None:
    begun = b"".join(chat_events("Hel", "lo")[:2])
    alone.engine.script(Stream(begun + b"".join(end)))
    stream = events_of(await alone.api.post(PATH, json=ASK | {"stream": True}))
    assert [event["type"] for event in stream] == [
        "message_start", "content_block_start", "content_block_delta", "error",
    ]  # fmt: skip
    assert stream[-1]["error"]["type"] == "api_error"
    assert message in stream[-1]["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_reply_that_the_engine_gives_up_is_no_answer(alone: Alone, stream: bool) -> None:
    chat = {"choices": [{"message": {"content": "Hel"}, "finish_reason": "abort"}]}
    alone.engine.script(Stream(*chat_events("Hel", finish="abort")) if stream else whole(chat))
    response = await alone.api.post(PATH, json=ASK | {"stream": stream})
    failure = events_of(response)[-1] if stream else response.json()
    assert failure["type"] == "error"
    assert failure["error"]["message"] == f"{DIED}: its reply broke off"


async def test_an_engine_that_goes_in_the_middle_of_a_stream(alone: Alone) -> None:
    reply = Stream(*chat_events("Hel", "lo")[:2], end="cut")
    alone.engine.script(reply)
    sent = ""
    async with alone.api.stream("POST", PATH, json=ASK | {"stream": True}) as response:
        async for part in response.aiter_text():
            sent += part
            if "Hel" in sent:
                reply.may_cut.set()
    name, data = sent.removesuffix("\n\n").rpartition("event: ")[2].split("\ndata: ")
    assert name == json.loads(data)["type"] == "error"
    assert json.loads(data)["error"]["message"].startswith(DIED)


# Clients that leave


async def test_leaving_in_the_middle_of_a_stream_aborts_it(alone: Alone) -> None:
    reply = Stream(*chat_events("Hel", "lo")[:2], end="hang")
    alone.engine.script(reply)
    async with alone.api.stream("POST", PATH, json=ASK | {"stream": True}) as response:
        await anext(response.aiter_text())
        assert not reply.aborted.is_set()
    await asyncio.wait_for(reply.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


@pytest.mark.parametrize("path", [PATH, COUNT])
@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_answer_aborts_it(alone: Alone, path: str, stream: bool) -> None:
    silence = Silence()
    alone.engine.script(silence)
    asking = asyncio.create_task(alone.api.post(path, json=ASK | {"stream": stream}))
    await asyncio.wait_for(silence.reached.wait(), 5)
    asking.cancel()
    await asyncio.wait_for(silence.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)
