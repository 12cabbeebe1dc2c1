"""/v1: handed through to the engine under the client's name for the model."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import Alone, Engines
from tests.fake_engine import Silence, Stream, chat_events, events, hang_up, refusal, whole
from vllama.demo.dialogues import COMPLETIONS, WEATHER_TOOL, by_name
from vllama.errors import EngineError

HELLO = by_name("hello")
CHAT = "/v1/chat/completions"
DIED = "model runner has unexpectedly stopped"
SAY: list[Any] = [{"role": "user", "content": "Hello!"}]
BRIEFLY: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
CHATS: dict[str, Any] = {"model": "demo", "messages": SAY, "temperature": 0}


def events_of(response: httpx.Response) -> list[str]:
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


def error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


# Recorded conversations


@pytest.mark.parametrize("name", ["demo", "DEMO:latest"])
async def test_chat(api: httpx.AsyncClient, name: str) -> None:
    reply = (await api.post(CHAT, json=CHATS | {"model": name})).json()
    assert (reply["object"], reply["model"]) == ("chat.completion", name)
    message = reply["choices"][0]["message"]
    assert (message["content"].strip(), message["reasoning"].strip()) == (HELLO.answer, HELLO.thinking)
    assert reply["usage"]["completion_tokens"] > 0


async def test_streamed_chat(api: httpx.AsyncClient) -> None:
    body = CHATS | BRIEFLY | {"stream": True, "stream_options": {"include_usage": True}, "model": "Demo"}
    *chunks, done = events_of(await api.post(CHAT, json=body))
    assert done == "[DONE]"
    objects = [json.loads(chunk) for chunk in chunks]
    assert {chunk["model"] for chunk in objects} == {"Demo"}
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in objects[:-1]).strip() == HELLO.answer
    assert (objects[-1]["choices"], objects[-1]["usage"]["completion_tokens"] > 0) == ([], True)


async def test_completions(api: httpx.AsyncClient) -> None:
    completion = COMPLETIONS[0]
    body = {"model": "demo:latest", "prompt": completion.prompt, "temperature": 0, "max_tokens": 100}
    reply = (await api.post("/v1/completions", json=body)).json()
    assert (reply["object"], reply["model"]) == ("text_completion", "demo:latest")
    assert reply["choices"][0]["text"] == completion.text


async def test_the_official_client(gateway_url: str, engines: Engines) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway_url}/v1", api_key="any", max_retries=0) as client:
        reply = await client.chat.completions.create(model="demo", messages=SAY, temperature=0)
        assert (reply.choices[0].message.content or "").strip() == HELLO.answer
        parts = [
            part.choices[0].delta.content or ""
            async for part in await client.chat.completions.create(
                model="demo", messages=SAY, temperature=0, stream=True, extra_body=BRIEFLY
            )
        ]
        assert "".join(parts).strip() == HELLO.answer
        called = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": by_name("weather-paris").question}],
            tools=[WEATHER_TOOL],  # type: ignore[list-item]
            temperature=0,
            extra_body=BRIEFLY,
        )
        (call,) = called.choices[0].message.tool_calls or []
        assert json.loads(call.function.arguments) == by_name("weather-paris").tool_calls[0].arguments
        assert called.choices[0].finish_reason == "tool_calls"
        assert {model.id async for model in client.models.list()} == {
            "demo:latest", "demo-embed:latest", "plain:latest",
        }  # fmt: skip
        assert (await client.models.retrieve("demo")).id == "demo"
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
            await client.chat.completions.create(model="nope", messages=SAY)


async def test_the_engines_own_refusal(api: httpx.AsyncClient) -> None:
    """A real engine's 400, in OpenAI's shape and with its own words."""
    response = await api.post(CHAT, json=CHATS | {"top_p": 7})
    assert response.status_code == 400
    assert list(response.json()["error"]) == ["message", "type", "param", "code"]
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert "top_p" in response.json()["error"]["message"]


# Models


async def test_list_models(api: httpx.AsyncClient) -> None:
    reply = (await api.get("/v1/models")).json()
    assert list(reply) == ["object", "data"]
    assert reply["object"] == "list"
    tags = (await api.get("/api/tags")).json()["models"]
    assert [card["id"] for card in reply["data"]] == [entry["name"] for entry in tags]
    for card in reply["data"]:
        assert list(card) == ["id", "object", "created", "owned_by"]
        assert (card["object"], card["owned_by"]) == ("model", "library")
        assert card["created"] > 1_600_000_000


@pytest.mark.parametrize("name", ["demo", "DEMO", "demo:latest", "library/demo"])
async def test_get_model_echoes_the_name(api: httpx.AsyncClient, name: str) -> None:
    assert (await api.get(f"/v1/models/{name}")).json()["id"] == name


# Refusals


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "expected"),
    [
        ("GET", "/v1/models/Nope", None, 404, error("model 'Nope:latest' not found", "not_found_error")),
        ("GET", "/v1/models/a%20b", None, 400, error("invalid model name", "invalid_request_error")),
        ("POST", CHAT, b"", 400, error("EOF", "invalid_request_error")),
        ("POST", CHAT, b"[]", 400, error("the request's body must be a JSON object", "invalid_request_error")),
        ("POST", CHAT, {"model": 5, "messages": SAY}, 400, error("model: expected string", "invalid_request_error")),
        ("POST", CHAT, {"messages": SAY}, 400, error("model is required", "invalid_request_error")),
        ("POST", CHAT, {"model": "demo"}, 400, error("[] is too short - 'messages'", "invalid_request_error")),
        ("POST", CHAT, CHATS | {"messages": []}, 400, error("[] is too short - 'messages'", "invalid_request_error")),
        ("POST", CHAT, CHATS | {"model": "a b"}, 400, error("invalid model name", "invalid_request_error")),
        ("POST", CHAT, CHATS | {"model": "Nope"}, 404, error("model 'Nope' not found", "not_found_error")),
        (
            "POST",
            CHAT,
            CHATS | {"model": "Demo-Embed"},
            400,
            error('"Demo-Embed" does not support chat', "invalid_request_error"),
        ),
        ("POST", "/v1/completions", {"prompt": "x"}, 404, error("model '' not found", "not_found_error")),
        (
            "POST",
            "/v1/completions",
            {"model": "demo-embed", "prompt": "x"},
            400,
            error('"demo-embed" does not support generate', "invalid_request_error"),
        ),
    ],
)
async def test_refusals(
    api: httpx.AsyncClient, engines: Engines, method: str, path: str, body: Any, status: int, expected: dict[str, Any]
) -> None:
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    response = await api.request(method, path, content=content)
    assert (response.status_code, response.json()) == (status, expected)
    assert all(not fake.asked for fake in engines.fakes.values())


@pytest.mark.parametrize("body", [b'{"model": "demo"', b"\xff", b'{"model": "demo", "messages": ' + b"[" * 100_000])
async def test_bodies_that_are_not_json(api: httpx.AsyncClient, body: bytes) -> None:
    response = await api.post(CHAT, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["message"].startswith("the request's body is not JSON: ")


# Faults of the engine


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("behaviour", "status", "expected"),
    [
        (refusal(400, "top_p must be in (0, 1]"), 400, error("top_p must be in (0, 1]", "invalid_request_error")),
        (
            refusal(503, "queue is full", "ServiceUnavailable"),
            503,
            error("server busy, please try again.  maximum pending requests exceeded", "api_error"),
        ),
        (
            refusal(500, "EngineCore died", "InternalServerError"),
            500,
            error("an error was encountered while running the model: EngineCore died", "api_error"),
        ),
    ],
)
async def test_an_engines_error_before_the_first_byte(
    alone: Alone, behaviour: Any, status: int, expected: dict[str, Any], stream: bool
) -> None:
    alone.engine.script(behaviour)
    response = await alone.api.post(CHAT, json=CHATS | {"stream": stream})
    assert (response.status_code, response.json()) == (status, expected)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_is_gone(alone: Alone, stream: bool) -> None:
    alone.engine.script(hang_up)
    response = await alone.api.post(CHAT, json=CHATS | {"stream": stream})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "api_error"
    assert response.json()["error"]["message"].startswith(DIED)


async def test_a_model_that_does_not_load(alone: Alone) -> None:
    alone.next_place["failure"] = EngineError("no memory", "take a smaller model")
    response = await alone.api.post(CHAT, json=CHATS | {"stream": True})
    assert (response.status_code, response.json()) == (500, error("no memory: take a smaller model", "api_error"))


async def test_an_engine_that_goes_in_the_middle_of_a_stream(alone: Alone) -> None:
    reply = Stream(*chat_events("Hel", "lo")[:2], end="cut")
    alone.engine.script(reply)
    text = ""
    async with alone.api.stream("POST", CHAT, json=CHATS | {"stream": True}) as response:
        async for part in response.aiter_text():
            text += part
            if "Hel" in text:
                reply.may_cut.set()
    last = json.loads(text.removesuffix("\n\n").rpartition("data: ")[2])
    assert last["error"]["type"] == "api_error"
    assert last["error"]["message"].startswith(DIED)


async def test_the_official_client_sees_an_engine_go(alone: Alone) -> None:
    reply = Stream(*chat_events("Hel", "lo")[:2], end="cut")
    alone.engine.script(reply)
    async with openai.AsyncOpenAI(base_url=f"{alone.url}/v1", api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(model="demo", messages=SAY, stream=True)
        assert (await anext(stream)).choices[0].delta.content == ""
        reply.may_cut.set()
        with pytest.raises(openai.APIError, match=DIED):
            [part async for part in stream]


async def test_events_that_name_no_model_pass(alone: Alone) -> None:
    failure = {"error": {"message": "out of memory", "code": 500}}
    alone.engine.script(Stream(*events({"model": "theirs", "x": 1.50}, "garbage", failure, "[DONE]")))
    response = await alone.api.post(CHAT, json=CHATS | {"stream": True})
    renamed, garbage, passed, done = events_of(response)
    assert (renamed, garbage, done) == ('{"model":"demo","x":1.5}', "garbage", "[DONE]")
    assert json.loads(passed) == failure


async def test_a_route_or_a_model_that_the_engine_does_not_have(alone: Alone) -> None:
    alone.engine.script(
        whole({"detail": "Not Found"}, 404), refusal(404, "The model `demo:latest` does not exist.", "NotFoundError")
    )
    route = await alone.api.post("/v1/completions", json={"model": "demo", "prompt": "x"})
    expected = error('"demo" does not support this endpoint', "invalid_request_error")
    assert (route.status_code, route.json()) == (400, expected)
    model = await alone.api.post("/v1/completions", json={"model": "demo", "prompt": "x"})
    assert (model.status_code, model.json()) == (404, error("model 'demo' not found", "not_found_error"))


# Clients that leave


async def test_leaving_in_the_middle_of_a_stream_aborts_it(alone: Alone) -> None:
    reply = Stream(*chat_events("Hel", "lo")[:2], end="hang")
    alone.engine.script(reply)
    async with alone.api.stream("POST", CHAT, json=CHATS | {"stream": True}) as response:
        await anext(response.aiter_text())
        assert not reply.aborted.is_set()
    await asyncio.wait_for(reply.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


async def test_leaving_a_stream_before_its_first_event_aborts_it(alone: Alone) -> None:
    reply = Stream(end="hang")
    alone.engine.script(reply)
    async with alone.api.stream("POST", CHAT, json=CHATS | {"stream": True}):
        await asyncio.wait_for(reply.sent.wait(), 5)
    await asyncio.wait_for(reply.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


@pytest.mark.parametrize("reply", [Silence, lambda: Stream(b'{"id"', content_type="application/json", end="hang")])
async def test_leaving_before_the_answer_aborts_it(alone: Alone, reply: Any) -> None:
    behaviour = reply()
    alone.engine.script(behaviour)
    asking = asyncio.create_task(alone.api.post(CHAT, json=CHATS))
    await asyncio.wait_for((behaviour.reached if isinstance(behaviour, Silence) else behaviour.sent).wait(), 5)
    asking.cancel()
    await asyncio.wait_for(behaviour.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)
