"""/v1/responses: the engine's own, as Ollama's clients expect it."""

import json
from typing import Any

import httpx
import pytest

from tests.conftest import Alone, Engines
from tests.each import each
from tests.fake_engine import Stream, events, refusal
from vllama.demo.dialogues import CITY_SCHEMA, WEATHER_TOOL, by_name

PATH = "/v1/responses"
HELLO = by_name("hello")
WEATHER = by_name("weather-paris")
TOOL: dict[str, Any] = {"type": "function", "strict": False} | WEATHER_TOOL["function"]
ASK: dict[str, Any] = {"model": "Demo", "input": HELLO.question, "temperature": 0}
BRIEFLY: dict[str, Any] = {"reasoning": {"effort": "none"}}


def error(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    found = [json.loads(block.partition("\ndata: ")[2]) for block in blocks]
    assert [block.partition("\n")[0] for block in blocks] == [f"event: {event['type']}" for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


# Recorded conversations


async def test_response(api: httpx.AsyncClient) -> None:
    reply = (await api.post(PATH, json=ASK)).json()
    assert (reply["object"], reply["model"], reply["status"]) == ("response", "Demo", "completed")
    thinking, message = reply["output"]
    assert thinking["summary"] == [{"type": "summary_text", "text": HELLO.thinking}]
    assert thinking["encrypted_content"] == HELLO.thinking
    assert message["content"][0]["text"] == HELLO.answer
    assert reply["usage"]["output_tokens"] > 0


async def test_without_thinking(api: httpx.AsyncClient) -> None:
    (message,) = (await api.post(PATH, json=ASK | BRIEFLY)).json()["output"]
    assert message["content"][0]["text"] == HELLO.answer


async def test_streamed_response(api: httpx.AsyncClient) -> None:
    found = events_of(await api.post(PATH, json=ASK | {"stream": True}))
    assert {event["response"]["model"] for event in found if "response" in event} == {"Demo"}
    names = [event["type"].removeprefix("response.") for event in found]
    assert [name for index, name in enumerate(names) if name not in names[:index]] == [
        "created", "in_progress", "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done", "content_part.added",
        "output_text.delta", "output_text.done", "content_part.done", "completed",
    ]  # fmt: skip
    for kind, text in (("reasoning_summary_text", HELLO.thinking), ("output_text", HELLO.answer)):
        parts = [event["delta"] for event in found if event["type"] == f"response.{kind}.delta"]
        assert "".join(parts) == text
        assert [event["text"] for event in found if event["type"] == f"response.{kind}.done"] == [text]
    final = found[-1]["response"]["output"]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert [item["id"] for item in final] == [item["id"] for item in done]
    assert [item.get("summary") for item in final] == [item.get("summary") for item in done]


async def test_a_streamed_call(api: httpx.AsyncClient) -> None:
    body = ASK | {"input": WEATHER.question, "tools": [TOOL], "stream": True}
    found = events_of(await api.post(PATH, json=body))
    added = [event for event in found if event["type"] == "response.output_item.added"]
    assert [(event["output_index"], event["item"]["type"]) for event in added] == [
        (0, "reasoning"),
        (1, "function_call"),
    ]
    (arguments,) = [event["arguments"] for event in found if event["type"] == "response.function_call_arguments.done"]
    assert json.loads(arguments) == WEATHER.tool_calls[0].arguments
    assert [item["type"] for item in found[-1]["response"]["output"]] == ["reasoning", "function_call"]


async def test_the_answer_to_a_call(api: httpx.AsyncClient) -> None:
    asked = (await api.post(PATH, json=ASK | {"input": WEATHER.question, "tools": [TOOL]})).json()
    call = next(item for item in asked["output"] if item["type"] == "function_call")
    result = by_name("weather-result")
    items = [
        {"role": "user", "content": WEATHER.question},
        {"type": "reasoning", "summary": [], "encrypted_content": WEATHER.thinking},
        {"type": "function_call", "call_id": "call_1", "name": call["name"], "arguments": call["arguments"]},
        {"type": "function_call_output", "call_id": "call_1", "output": result.messages[-1]["content"]},
    ]
    reply = (await api.post(PATH, json=ASK | {"input": items, "tools": [TOOL]})).json()
    assert reply["output"][-1]["content"][0]["text"] == result.answer


@pytest.mark.parametrize(
    "body",
    [
        {"instructions": "You are a pirate."},
        {"input": [{"role": "developer", "content": "You are a pirate."}, {"role": "user", "content": "Hello!"}]},
    ],
)
async def test_instructions(api: httpx.AsyncClient, body: dict[str, Any]) -> None:
    reply = (await api.post(PATH, json=ASK | BRIEFLY | body)).json()
    assert reply["output"][-1]["content"][0]["text"] == by_name("pirate-hello").answer


async def test_a_format(api: httpx.AsyncClient) -> None:
    text = {"format": {"type": "json_schema", "schema": CITY_SCHEMA}}
    city = by_name("json-city")
    reply = (await api.post(PATH, json=ASK | BRIEFLY | {"input": city.question, "text": text})).json()
    assert reply["output"][-1]["content"][0]["text"] == city.answer


async def test_a_limit(api: httpx.AsyncClient) -> None:
    reply = (await api.post(PATH, json=ASK | {"max_output_tokens": 3})).json()
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


async def test_the_official_client(gateway_url: str, engines: Engines) -> None:
    import openai  # here, as it takes a second

    async with openai.AsyncOpenAI(base_url=f"{gateway_url}/v1", api_key="any", max_retries=0) as client:
        reply = await client.responses.create(model="demo", input=HELLO.question, temperature=0)
        assert reply.output_text == HELLO.answer
        async with client.responses.stream(model="demo", input=HELLO.question, temperature=0) as stream:
            parts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert "".join(parts) == final.output_text == HELLO.answer
        async with client.responses.stream(
            model="demo",
            input=WEATHER.question,
            temperature=0,
            tools=[TOOL],  # type: ignore[list-item]
        ) as stream:
            final = await stream.get_final_response()
        assert [item.type for item in final.output] == ["reasoning", "function_call"]
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
            await client.responses.create(model="nope", input="x")


async def test_the_engines_own_refusal(api: httpx.AsyncClient) -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nope"}}}
    response = await api.post(PATH, json=ASK | {"text": text})
    assert (response.status_code, response.json()) == (400, error("the format cannot be followed: Invalid type: nope"))


# Refusals


@each(
    ("body", "status", "expected"),
    [
        (b"", 400, error("EOF")),
        ({"input": "x"}, 400, error("model is required")),
        (ASK | {"model": "nope"}, 404, error("model 'nope' not found", "not_found_error")),
        (ASK | {"model": "a b"}, 400, error("invalid model name")),
        (ASK | {"model": "demo-embed"}, 400, error('"demo-embed" does not support chat')),
        (
            ASK | {"model": "plain"},
            400,
            error('"plain" has no chat template: use /v1/completions, or /api/generate'),
        ),
        (ASK | {"input": [{"type": "nope"}]}, 400, error('input[0]: unknown input item type: "nope"')),
        (ASK | {"tools": 5}, 400, error("invalid request: tools: expected array, got integer")),
        (
            ASK | {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a/b.png"}]}]},
            400,
            error("registry.ollama.ai/library/demo:latest does not support vision"),
        ),
    ],
)
async def test_refusals(
    api: httpx.AsyncClient, engines: Engines, body: Any, status: int, expected: dict[str, Any]
) -> None:
    response = await api.post(PATH, content=body if isinstance(body, bytes) else json.dumps(body))
    assert (response.status_code, response.json()) == (status, expected)
    assert all(not fake.asked for fake in engines.fakes.values())


@pytest.mark.parametrize(("method", "path"), [("GET", f"{PATH}/resp_1"), ("POST", f"{PATH}/resp_1/cancel")])
async def test_what_was_answered_is_not_kept(api: httpx.AsyncClient, method: str, path: str) -> None:
    response = await api.request(method, path)
    text = "response 'resp_1' not found: responses are not kept after their reply"
    assert (response.status_code, response.json()) == (404, error(text, "not_found_error"))


# Faults of the engine

CREATED = {"type": "response.created", "response": {"id": "resp_1", "model": "theirs", "status": "in_progress"}}


@pytest.mark.parametrize("end", ["error", "cut"])
async def test_an_engine_that_fails_in_the_middle(alone: Alone, end: str) -> None:
    failure = {"error": {"message": "out of memory", "code": 500}}
    chunks = events(CREATED, failure) if end == "error" else events(CREATED)
    reply = Stream(*chunks, end="complete" if end == "error" else "cut")
    alone.engine.script(reply)
    text = ""
    async with alone.api.stream("POST", PATH, json=ASK | {"stream": True}) as response:
        async for part in response.aiter_text():
            text += part
            reply.may_cut.set()
    created, said, failed = (json.loads(block.partition("\ndata: ")[2]) for block in text.split("\n\n")[:-1])
    assert created["response"]["model"] == failed["response"]["model"] == "Demo"
    begin = "an error was encountered while running the model: out of memory" if end == "error" else "model runner has"
    assert said["message"].startswith(begin)
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["message"] == said["message"]


async def test_the_official_client_sees_a_failure(alone: Alone) -> None:
    import openai  # here, as it takes a second

    alone.engine.script(Stream(*events(CREATED, {"error": {"message": "out of memory", "code": 500}})))
    async with openai.AsyncOpenAI(base_url=f"{alone.url}/v1", api_key="any", max_retries=0) as client:
        stream = await client.responses.create(model="demo", input="x", stream=True)
        with pytest.raises(openai.APIError, match="out of memory"):
            [part async for part in stream]


async def test_a_prompt_that_is_too_long(alone: Alone) -> None:
    alone.engine.script(refusal(400, "The engine prompt length 5000 exceeds the max_model_len 4096."))
    response = await alone.api.post(PATH, json=ASK)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("the prompt is longer than the context length")
