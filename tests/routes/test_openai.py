"""/v1: handed through to the engine under the client's name for the model."""

import asyncio
import json
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.applications import Starlette

from tests.conftest import Alone, Engines
from tests.each import each
from tests.fake_engine import Silence, Stream, chat_events, events, hang_up, refusal, whole
from vllama.demo.dialogues import COMPLETIONS, WEATHER_TOOL, by_name
from vllama.engine.parsers import Parsers
from vllama.errors import EngineError
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.modelfile import Modelfile
from vllama.models.names import parse
from vllama.translate.failure import CONTEXT_EXCEEDED

HELLO = by_name("hello")
CHAT = "/v1/chat/completions"
DIED = "model runner has unexpectedly stopped"
SAY: list[Any] = [{"role": "user", "content": "Hello!"}]
BRIEFLY: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
CHATS: dict[str, Any] = {"model": "demo", "messages": SAY, "temperature": 0}


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


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
    assert (reply["id"][:9], reply["system_fingerprint"]) == ("chatcmpl-", "fp_ollama")
    message = reply["choices"][0]["message"]
    assert (message["role"], message["content"], message["reasoning"]) == ("assistant", HELLO.answer, HELLO.thinking)
    assert reply["usage"]["completion_tokens"] > 0


async def test_streamed_chat(api: httpx.AsyncClient) -> None:
    body = CHATS | {"stream": True, "stream_options": {"include_usage": True}, "model": "Demo"}
    *chunks, done = events_of(await api.post(CHAT, json=body))
    assert done == "[DONE]"
    *objects, usage = [json.loads(chunk) for chunk in chunks]
    assert {(chunk["model"], chunk["system_fingerprint"]) for chunk in objects} == {("Demo", "fp_ollama")}
    deltas = [chunk["choices"][0]["delta"] for chunk in objects]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("reasoning", "") for delta in deltas) == HELLO.thinking
    assert "".join(delta.get("content", "") for delta in deltas) == HELLO.answer
    assert all("usage" not in chunk for chunk in objects)
    assert [chunk["choices"][0]["finish_reason"] for chunk in objects][-2:] == [None, "stop"]
    assert (usage["choices"], usage["usage"]["completion_tokens"] > 0) == ([], True)


@pytest.mark.parametrize("effort", ["none", "high", None])
async def test_effort(api: httpx.AsyncClient, effort: str | None) -> None:
    reply = (await api.post(CHAT, json=CHATS | {"reasoning_effort": effort})).json()
    message = reply["choices"][0]["message"]
    assert (message["content"], "reasoning" in message) == (HELLO.answer, effort != "none")


WEATHER = by_name("weather-paris")
TOOLS = CHATS | {"messages": [{"role": "user", "content": WEATHER.question}], "tools": [WEATHER_TOOL]}


async def test_a_call(api: httpx.AsyncClient) -> None:
    (choice,) = (await api.post(CHAT, json=TOOLS)).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"], call["index"]) == ("tool_calls", "", 0)
    assert json.loads(call["function"]["arguments"]) == WEATHER.tool_calls[0].arguments


async def test_a_streamed_call(api: httpx.AsyncClient) -> None:
    *chunks, _ = events_of(await api.post(CHAT, json=TOOLS | {"stream": True}))
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    parts = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert parts[0] == {"name": "get_weather", "arguments": ""}
    assert json.loads("".join(part["arguments"] for part in parts)) == WEATHER.tool_calls[0].arguments
    assert "".join(delta.get("content", "") for delta in deltas) == ""


async def test_tool_choice(api: httpx.AsyncClient) -> None:
    (choice,) = (await api.post(CHAT, json=TOOLS | {"tool_choice": "none"})).json()["choices"]
    assert "tool_calls" not in choice["message"]


async def test_several_answers_with_probabilities(api: httpx.AsyncClient) -> None:
    body = CHATS | BRIEFLY | {"n": 2, "temperature": 0.1, "seed": 1, "logprobs": True, "max_completion_tokens": 3}
    choices = (await api.post(CHAT, json=body)).json()["choices"]
    assert [(choice["index"], choice["finish_reason"]) for choice in choices] == [(0, "length"), (1, "length")]
    assert all(len(choice["logprobs"]["content"]) == 3 for choice in choices)


async def test_values_that_the_engine_alone_would_refuse(api: httpx.AsyncClient) -> None:
    body = CHATS | BRIEFLY | {"top_p": 0, "stop": "", "max_tokens": 10**9, "tools": [], "tool_choice": "auto"}
    reply = (await api.post(CHAT, json=body)).json()
    assert reply["choices"][0]["message"]["content"] == HELLO.answer


async def test_a_prompt_that_is_too_long(api: httpx.AsyncClient) -> None:
    response = await api.post(CHAT, json=CHATS | {"messages": [{"role": "user", "content": "word " * 5000}]})
    assert (response.status_code, response.json()) == (400, error(CONTEXT_EXCEEDED, "invalid_request_error"))


async def test_completions(api: httpx.AsyncClient) -> None:
    completion = COMPLETIONS[0]
    body = {"model": "demo:latest", "prompt": completion.prompt, "temperature": 0}
    reply = (await api.post("/v1/completions", json=body)).json()
    assert (reply["object"], reply["model"], reply["id"][:5]) == ("text_completion", "demo:latest", "cmpl-")
    assert reply["system_fingerprint"] == "fp_ollama"
    assert reply["choices"][0]["text"] == completion.text


async def test_streamed_completion(api: httpx.AsyncClient) -> None:
    completion = COMPLETIONS[0]
    body = {"model": "Demo", "prompt": completion.prompt, "temperature": 0, "stream": True}
    *data, done = events_of(await api.post("/v1/completions", json=body))
    chunks = [json.loads(chunk) for chunk in data]
    assert (done, {(chunk["model"], chunk["system_fingerprint"]) for chunk in chunks}) == (
        "[DONE]",
        {("Demo", "fp_ollama")},
    )
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == completion.text


async def test_several_prompts(api: httpx.AsyncClient) -> None:
    prompts = [completion.prompt for completion in COMPLETIONS[1:]]
    reply = (await api.post("/v1/completions", json={"model": "demo", "prompt": prompts, "temperature": 0})).json()
    assert [choice["text"] for choice in reply["choices"]] == [completion.text for completion in COMPLETIONS[1:]]


async def test_the_probabilities_of_a_given_text(api: httpx.AsyncClient) -> None:
    body = {"model": "demo", "prompt": "The quick brown fox", "echo": True, "max_tokens": 0, "logprobs": 1}
    (choice,) = (await api.post("/v1/completions", json=body)).json()["choices"]
    assert choice["text"] == "The quick brown fox"
    assert len(choice["logprobs"]["tokens"]) > 1


NOTHING_USED = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize("prompt", ["", None, []])
async def test_an_empty_prompt_loads(api: httpx.AsyncClient, engines: Engines, prompt: Any) -> None:
    reply = (await api.post("/v1/completions", json={"model": "Demo", "prompt": prompt})).json()
    assert (reply["object"], reply["model"], reply["usage"]) == ("text_completion", "Demo", NOTHING_USED)
    assert reply["choices"] == [{"text": "", "index": 0, "finish_reason": "load"}]
    assert not engines["demo"].asked


@pytest.mark.parametrize("usage", [True, False])
async def test_an_empty_prompt_loads_in_a_stream_too(api: httpx.AsyncClient, usage: bool) -> None:
    body = {"model": "Demo", "stream": True, "stream_options": {"include_usage": usage}}
    first, *rest, done = events_of(await api.post("/v1/completions", json=body))
    assert json.loads(first)["choices"][0]["finish_reason"] == "load"
    assert [json.loads(event)["usage"] for event in rest] == [NOTHING_USED] * usage
    assert done == "[DONE]"


async def test_the_official_client(gateway_url: str, engines: Engines) -> None:
    import openai  # here, as it takes a second

    async with openai.AsyncOpenAI(base_url=f"{gateway_url}/v1", api_key="any", max_retries=0) as client:
        reply = await client.chat.completions.create(model="demo", messages=SAY, temperature=0)
        assert reply.choices[0].message.content == HELLO.answer
        parts = [
            part.choices[0].delta.content or ""
            async for part in await client.chat.completions.create(
                model="demo", messages=SAY, temperature=0, stream=True, extra_body=BRIEFLY
            )
        ]
        assert "".join(parts) == HELLO.answer
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


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ({"n": 0}, "n must be at least 1, got 0."),
        ({"logit_bias": {"a": 1}}, "logit_bias contains key(s) that cannot be converted to integer token IDs: ['a']"),
        ({"user": 5}, "user: expected string"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name: required"),
        ({"tools": [{"type": "web_search", "function": {"name": "f"}}]}, "tools[0].type: expected 'function'"),
        (
            {"response_format": {"type": "yaml"}},
            "response_format.type: expected 'text', 'json_object' or 'json_schema' or 'structural_tag'",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}},
            "the format cannot be followed: Invalid type: nope",
        ),
        (
            {"structured_outputs": {"regex": "("}},
            'the format cannot be followed: at 1(8): invalid regex "(" (in regex): unclosed group',
        ),
    ],
)
async def test_the_engines_own_refusals(api: httpx.AsyncClient, member: dict[str, Any], text: str) -> None:
    """A real engine's 400s, in OpenAI's shape and in plain words."""
    response = await api.post(CHAT, json=CHATS | member)
    assert (response.status_code, response.json()) == (400, error(text, "invalid_request_error"))


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


async def test_models_of_others_and_none(
    alone: Alone, empty_app: tuple[Starlette, str], models: dict[str, Model]
) -> None:
    gateway = empty_app[0].state.gateway
    gateway.catalogue = Catalogue([replace(models["demo"], name=parse("me/demo"))])
    (card,) = (await alone.api.get("/v1/models")).json()["data"]
    assert (card["id"], card["owned_by"]) == ("me/demo:latest", "me")
    gateway.catalogue = Catalogue([])
    assert (await alone.api.get("/v1/models")).json() == {"object": "list", "data": []}


@pytest.mark.parametrize("name", ["demo", "DEMO", "demo:latest", "library/demo", "registry.ollama.ai/library/demo"])
async def test_get_model_echoes_the_name(api: httpx.AsyncClient, name: str) -> None:
    assert (await api.get(f"/v1/models/{name}")).json()["id"] == name
    assert (await api.get(f"/v1/models/{quote(name, safe='')}")).json()["id"] == name


# Refusals


@each(
    ("method", "path", "body", "status", "expected"),
    [
        ("GET", "/v1/models/Nope", None, 404, error("model 'Nope:latest' not found", "not_found_error")),
        ("GET", "/v1/models/a/nope", None, 404, error("model 'a/nope:latest' not found", "not_found_error")),
        ("GET", "/v1/models/a%20b", None, 400, error("invalid model name", "invalid_request_error")),
        ("POST", CHAT, b"", 400, error("EOF", "invalid_request_error")),
        ("POST", CHAT, b"[]", 400, error("the request's body must be a JSON object", "invalid_request_error")),
        (
            "POST",
            CHAT,
            {"model": 5, "messages": SAY},
            400,
            error("invalid request: model: expected string, got integer", "invalid_request_error"),
        ),
        (
            "POST",
            CHAT,
            CHATS | {"messages": ["x"]},
            400,
            error("invalid request: messages[0]: expected object, got string", "invalid_request_error"),
        ),
        (
            "POST",
            CHAT,
            {"messages": [{"role": "user", "content": 5}]},
            400,
            error("invalid message content type: float64", "invalid_request_error"),
        ),
        (
            "POST",
            CHAT,
            CHATS | {"messages": [{"role": "user", "content": [IMAGE]}]},
            400,
            error("registry.ollama.ai/library/demo:latest does not support vision", "invalid_request_error"),
        ),
        (
            "POST",
            CHAT,
            CHATS | {"model": "Plain"},
            400,
            error('"Plain" has no chat template: use /v1/completions, or /api/generate', "invalid_request_error"),
        ),
        (
            "POST",
            "/v1/completions",
            {"model": "demo", "prompt": "x", "suffix": "y"},
            400,
            error("registry.ollama.ai/library/demo:latest does not support insert", "invalid_request_error"),
        ),
        (
            "POST",
            "/v1/completions",
            {"model": "demo", "prompt": "x", "stop": [1]},
            400,
            error("invalid type for 'stop' field: float64", "invalid_request_error"),
        ),
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


async def test_what_is_forgiven_in_a_body(alone: Alone) -> None:
    alone.engine.script(whole({"choices": []}))
    body = b'{"model": "demo", "messages": [{"role": "user", "content": "a\\ud83db\xff"}], "seed": 7} and more'
    assert (await alone.api.post(CHAT, content=body)).status_code == 200
    assert alone.engine.last_body["messages"] == [{"role": "user", "content": "a\ufffdb\ufffd"}]
    assert alone.engine.last_body["seed"] == 7


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
    alone.engine.script(hang_up, hang_up)
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
    import openai  # here, as it takes a second

    reply = Stream(*chat_events("Hel", "lo")[:2], end="cut")
    alone.engine.script(reply)
    async with openai.AsyncOpenAI(base_url=f"{alone.url}/v1", api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(model="demo", messages=SAY, stream=True)
        assert (await anext(stream)).choices[0].delta.content == ""
        reply.may_cut.set()
        with pytest.raises(openai.APIError, match=DIED):
            [part async for part in stream]


async def test_events_that_are_no_chunks_pass(alone: Alone) -> None:
    alone.engine.script(Stream(*events({"model": "theirs", "x": 1.50, "error": None}, "garbage", '"error"', "[DONE]")))
    renamed, *passed = events_of(await alone.api.post(CHAT, json=CHATS | {"stream": True}))
    assert json.loads(renamed) == {"model": "demo", "x": 1.5, "error": None, "system_fingerprint": "fp_ollama"}
    assert passed == ["garbage", '"error"', "[DONE]"]


async def test_texts_that_look_like_something_else(alone: Alone) -> None:
    texts = ["Hello", "data: x", '{"error": "data: "}', "\n\ndata: [DONE]", ": ping"]
    alone.engine.script(Stream(b": ping\n\n", *chat_events(*texts)))
    *chunks, done = events_of(await alone.api.post(CHAT, json=CHATS | {"stream": True}))
    objects = [json.loads(chunk) for chunk in chunks]
    assert (done, {chunk["model"] for chunk in objects}) == ("[DONE]", {"demo"})
    said = [choice["delta"].get("content") for chunk in objects for choice in chunk["choices"]]
    assert [text for text in said if text] == texts


async def test_an_event_that_is_no_text_passes(alone: Alone) -> None:
    good, bad = (
        b'{"model":"theirs","choices":[{"index":0,"delta":{"content":"%b"}}]}' % text for text in (b"a", b"\xff")
    )
    alone.engine.script(Stream(*(b"data: " + data + b"\n\n" for data in (good, bad, good))))
    response = await alone.api.post(CHAT, json=CHATS | {"stream": True})
    first, second, third, _ = response.content.split(b"\n\n")
    assert (first, second) == (third, b"data: " + bad)


@pytest.mark.parametrize("body", [b'{"choices"', b"[]", b"\xff"])
async def test_a_reply_that_cannot_be_read(alone: Alone, body: bytes) -> None:
    alone.engine.script(whole(body))
    response = await alone.api.post(CHAT, json=CHATS)
    assert response.status_code == 500
    assert response.json()["error"]["message"].startswith("the engine's reply cannot be read: ")


@pytest.mark.parametrize(("path", "more"), [(CHAT, {"messages": SAY}), ("/v1/completions", {"prompt": "x"})])
async def test_an_error_in_a_stream_is_its_end(alone: Alone, path: str, more: dict[str, Any]) -> None:
    failure = {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}
    chunks = [b"".join(events({"model": "theirs", "choices": []}, failure, "[DONE]"))]
    alone.engine.script(Stream(*chunks))
    first, last = events_of(await alone.api.post(path, json={"model": "demo", "stream": True} | more))
    assert json.loads(first)["model"] == "demo"
    assert json.loads(last) == error("an error was encountered while running the model: out of memory", "api_error")
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


async def test_a_model_that_cannot_think(
    alone: Alone, empty_app: tuple[Starlette, str], models: dict[str, Model]
) -> None:
    demo = models["demo"]
    assert demo.checkpoint is not None
    checkpoint = replace(demo.checkpoint, capabilities=("completion",), parsers=Parsers())
    empty_app[0].state.gateway.catalogue.put(replace(demo, checkpoint=checkpoint))
    for member, text in [
        ({"reasoning_effort": "low"}, '"demo" does not support thinking'),
        ({"tools": [WEATHER_TOOL]}, "registry.ollama.ai/library/demo:latest does not support tools"),
    ]:
        response = await alone.api.post(CHAT, json=CHATS | member)
        assert (response.status_code, response.json()) == (400, error(text, "invalid_request_error"))
    alone.engine.script(whole({"choices": []}))
    await alone.api.post(CHAT, json=CHATS | {"reasoning_effort": "none"})
    assert not {"reasoning_effort", "chat_template_kwargs"} & alone.engine.last_body.keys()


async def test_a_modelfile(alone: Alone, empty_app: tuple[Starlette, str], models: dict[str, Model]) -> None:
    modelfile = Modelfile(system="You are a pirate.", parameters={"seed": 5}, messages=(("user", "Ahoy!"),))
    empty_app[0].state.gateway.catalogue.put(replace(models["demo"], modelfile=modelfile))
    alone.engine.script(whole({"choices": []}))
    await alone.api.post(CHAT, json=CHATS)
    body = alone.engine.last_body
    assert [message["content"] for message in body["messages"]] == ["You are a pirate.", "Ahoy!", "Hello!"]
    assert (body["seed"], body["model"]) == (5, "demo:latest")


async def test_a_route_or_a_model_that_the_engine_does_not_have(alone: Alone) -> None:
    alone.engine.script(
        whole({"detail": "Not Found"}, 404), refusal(404, "The model `demo:latest` does not exist.", "NotFoundError")
    )
    route = await alone.api.post("/v1/completions", json={"model": "demo", "prompt": "x"})
    expected = error('"demo" does not support generate', "invalid_request_error")
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
    asking = asyncio.create_task(alone.api.post(CHAT, json=CHATS | {"stream": True}))
    await asyncio.wait_for(reply.sent.wait(), 5)
    asking.cancel()
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
