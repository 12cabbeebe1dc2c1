"""/api/generate and /api/chat: recorded conversations, refusals, faults of the engine, and clients that leave."""

import asyncio
import json
import logging
import re
from typing import Any

import httpx
import ollama
import pytest

from tests.conftest import Alone, Engines
from tests.each import each
from tests.fake_engine import Silence, Stream, asked_twice, chat_events, events, hang_up, refusal, whole
from vllama.demo.dialogues import CITY_SCHEMA, COMPLETIONS, by_name
from vllama.errors import EngineError

GREEDY = {"temperature": 0}
METRICS = [
    "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration",
]  # fmt: skip
SAY = [{"role": "user", "content": "Hello!"}]
BUSY = "server busy, please try again.  maximum pending requests exceeded"
DIED = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
PATHS = ["/api/chat", "/api/generate"]


def chat_body(name: str, **more: Any) -> dict[str, Any]:
    dialogue = by_name(name)
    body = {"model": "demo", "messages": list(dialogue.messages), "options": GREEDY}
    return body | ({"tools": list(dialogue.tools)} if dialogue.tools else {}) | more


def generate_body(name: str, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": by_name(name).question, "options": GREEDY} | more


def body_for(path: str, **more: Any) -> dict[str, Any]:
    return {"model": "demo"} | ({"messages": SAY} if path == "/api/chat" else {"prompt": "Hello!"}) | more


def lines_of(response: httpx.Response, text: str | None = None) -> list[dict[str, Any]]:
    """The objects of a streamed reply, NDJSON or events, of which none may be empty."""
    text = response.text if text is None else text
    assert response.status_code == 200, text
    if response.headers["content-type"].startswith("text/event-stream"):
        *blocks, rest = text.split("\n\n")
        assert rest == ""
        return [json.loads(block.removeprefix("data: ")) for block in blocks]
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, rest = text.split("\n")
    assert rest == ""
    return [json.loads(line) for line in lines]


def check_final(final: dict[str, Any], text_fields: list[str], *, model: str = "demo", reason: str = "stop") -> None:
    assert [name for name in final if name != "context"] == [
        "model", "created_at", *text_fields, "done", "done_reason", *METRICS,
    ]  # fmt: skip
    assert (final["model"], final["done"], final["done_reason"]) == (model, True, reason)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", final["created_at"])
    assert all(type(final[name]) is int and final[name] > 0 for name in METRICS)
    assert final["total_duration"] >= final["load_duration"]


# Recorded conversations


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_streamed_chat(api: httpx.AsyncClient, accept: str) -> None:
    dialogue = by_name("hello")
    *chunks, final = lines_of(await api.post("/api/chat", json=chat_body("hello"), headers={"Accept": accept}))
    check_final(final, ["message"])
    for chunk in chunks:
        assert list(chunk) == ["model", "created_at", "message", "done"]
        assert (chunk["model"], chunk["done"]) == ("demo", False)
        assert list(chunk["message"]) in (["role", "content"], ["role", "content", "thinking"])
        assert chunk["message"]["role"] == "assistant"
    messages = [line["message"] for line in (*chunks, final)]
    assert "".join(message.get("thinking", "") for message in messages) == dialogue.thinking
    assert "".join(message["content"] for message in messages) == dialogue.answer
    answering = [bool(message["content"]) for message in messages[:-1]]
    assert answering == sorted(answering), "thinking comes before the answer"
    assert len(chunks) > 5, "token by token"


async def test_whole_chat(api: httpx.AsyncClient) -> None:
    dialogue = by_name("hello")
    response = await api.post("/api/chat", json=chat_body("hello", stream=False))
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    check_final(response.json(), ["message"])
    message = {"role": "assistant", "content": dialogue.answer, "thinking": dialogue.thinking}
    assert response.json()["message"] == message
    assert list(response.json()["message"]) == list(message)


@pytest.mark.parametrize("stream", [True, False])
async def test_chat_without_thinking(api: httpx.AsyncClient, stream: bool) -> None:
    response = await api.post("/api/chat", json=chat_body("hello", think=False, stream=stream))
    objects = lines_of(response) if stream else [response.json()]
    assert "".join(line["message"]["content"] for line in objects) == by_name("hello").answer
    assert all("thinking" not in line["message"] for line in objects)
    check_final(objects[-1], ["message"])


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
async def test_streamed_generate(api: httpx.AsyncClient, accept: str) -> None:
    dialogue = by_name("hello")
    *chunks, final = lines_of(await api.post("/api/generate", json=generate_body("hello"), headers={"Accept": accept}))
    check_final(final, ["response"])
    for chunk in chunks:
        assert list(chunk) in (
            ["model", "created_at", "response", "done"], ["model", "created_at", "response", "thinking", "done"]
        )  # fmt: skip
        assert chunk["done"] is False
    assert "".join(line.get("thinking", "") for line in chunks) == dialogue.thinking
    assert "".join(line["response"] for line in (*chunks, final)) == dialogue.answer


async def test_whole_generate(api: httpx.AsyncClient) -> None:
    reply = (await api.post("/api/generate", json=generate_body("hello", stream=False))).json()
    check_final(reply, ["response", "thinking"])
    assert (reply["response"], reply["thinking"]) == (by_name("hello").answer, by_name("hello").thinking)


async def test_generate_with_a_system(api: httpx.AsyncClient) -> None:
    dialogue = by_name("pirate-hello")
    system = dialogue.messages[0]["content"]
    body = generate_body("pirate-hello", system=system, think=False, stream=False)
    assert (await api.post("/api/generate", json=body)).json()["response"] == dialogue.answer


@pytest.mark.parametrize("stream", [True, False])
async def test_tool_calls(api: httpx.AsyncClient, stream: bool) -> None:
    response = await api.post("/api/chat", json=chat_body("weather-two", stream=stream))
    objects = lines_of(response) if stream else [response.json()]
    check_final(objects[-1], ["message"])
    calls = [call for line in objects for call in line["message"].get("tool_calls", [])]
    assert [list(call) for call in calls] == 2 * [["id", "function"]]
    assert all(re.fullmatch("call_[a-z0-9]{8}", call["id"]) for call in calls)
    assert [call["function"] for call in calls] == [
        {"index": index, "name": call.name, "arguments": call.arguments}
        for index, call in enumerate(by_name("weather-two").tool_calls)
    ]
    assert "".join(line["message"]["content"] for line in objects) == ""
    assert "<tool_call>" not in response.text


async def test_answer_from_a_tools_result(api: httpx.AsyncClient) -> None:
    reply = await api.post("/api/chat", json=chat_body("weather-result", stream=False, think=False))
    assert "in Paris" in reply.json()["message"]["content"]


@pytest.mark.parametrize("wanted", ["json", CITY_SCHEMA], ids=["json", "schema"])
async def test_format(api: httpx.AsyncClient, wanted: Any) -> None:
    body = chat_body("json-city", format=wanted, think=False, stream=False)
    content = (await api.post("/api/chat", json=body)).json()["message"]["content"]
    assert sorted(json.loads(content)) == ["city", "country"]


@pytest.mark.parametrize("stream", [True, False])
async def test_num_predict(api: httpx.AsyncClient, stream: bool) -> None:
    body = chat_body("hello", think=False, stream=stream, options=GREEDY | {"num_predict": 3})
    response = await api.post("/api/chat", json=body)
    objects = lines_of(response) if stream else [response.json()]
    check_final(objects[-1], ["message"], reason="length")
    assert objects[-1]["eval_count"] == 3
    text = "".join(line["message"]["content"] for line in objects)
    assert text
    assert by_name("hello").answer.startswith(text)


async def test_raw_generate_goes_on_with_the_prompt(api: httpx.AsyncClient) -> None:
    completion = COMPLETIONS[0]
    body = {"model": "demo", "prompt": completion.prompt, "raw": True, "options": GREEDY, "stream": False}
    reply = (await api.post("/api/generate", json=body)).json()
    check_final(reply, ["response"])
    assert reply["response"] == completion.text


async def test_a_model_without_a_template(
    api: httpx.AsyncClient, engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    """Ollama's default template: the texts one after another. It is logged once for a model, not for each request."""
    completion = COMPLETIONS[0]
    first, second = completion.prompt[:5], completion.prompt[5:]
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": second}]
    common = {"model": "plain", "options": GREEDY, "stream": False, "think": False}
    with caplog.at_level(logging.INFO, "vllama"):
        chat = (await api.post("/api/chat", json=common | {"messages": messages})).json()
        generated = (await api.post("/api/generate", json=common | {"prompt": second, "system": first})).json()
        streamed = lines_of(await api.post("/api/chat", json=common | {"messages": messages, "stream": True}))
    assert chat["message"] == {"role": "assistant", "content": completion.text}
    assert generated["response"] == completion.text
    assert "".join(line["message"]["content"] for line in streamed) == completion.text
    assert {asked.path for asked in engines["plain"].asked} == {"/v1/completions"}
    assert [record.message for record in caplog.records if "chat template" in record.message] == [
        "plain:latest has no chat template: its chats are the messages' contents one after another"
    ]


@pytest.mark.parametrize("name", ["DEMO", "demo:latest", "library/Demo:LATEST", "registry.ollama.ai/library/demo"])
async def test_names_are_echoed_as_they_came(api: httpx.AsyncClient, name: str) -> None:
    for stream in (False, True):
        response = await api.post("/api/chat", json=chat_body("hello", think=False, stream=stream, model=name))
        objects = lines_of(response) if stream else [response.json()]
        assert {line["model"] for line in objects} == {name}


async def test_name_stands_in_for_model(api: httpx.AsyncClient) -> None:
    body = chat_body("hello", think=False, stream=False) | {"model": "", "name": "demo"}
    assert (await api.post("/api/chat", json=body)).json()["model"] == "demo"


async def test_a_body_full_of_nothing(api: httpx.AsyncClient) -> None:
    """Ollama's own command line sends every field that has no rule against it."""
    nulls = dict.fromkeys(["context", "format", "images", "keep_alive", "think", "truncate", "shift"])
    zeros = {"suffix": "", "system": "", "template": "", "raw": False, "logprobs": False, "top_logprobs": 0}
    body = generate_body("hello", stream=False) | nulls | zeros
    assert (await api.post("/api/generate", json=body)).json()["response"] == by_name("hello").answer


async def test_null_and_unknown_fields_are_absent(api: httpx.AsyncClient) -> None:
    body = chat_body("hello", think=False, stream=False) | dict.fromkeys(["tools", "format", "keep_alive", "name"])
    message = {"role": "USER", "content": "Hello!", "thinking": None, "images": None, "tool_calls": None, "x": 1}
    body |= {"messages": [message], "options": GREEDY | {"top_k": None, "flux": 1}, "tool_choice": "none"}
    assert (await api.post("/api/chat", json=body)).json()["message"]["content"] == by_name("hello").answer


async def test_the_official_client(gateway_url: str, engines: Engines) -> None:
    hello = by_name("hello")
    async with ollama.AsyncClient(host=gateway_url) as client:
        asked: dict[str, Any] = {"model": "demo", "messages": SAY, "options": GREEDY}
        reply = await client.chat(**asked)
        assert (reply.message.content, reply.message.thinking) == (hello.answer, hello.thinking)
        assert reply.eval_count
        parts = [part async for part in await client.chat(**asked, stream=True)]
        assert "".join(part.message.content or "" for part in parts) == hello.answer
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
        generated = await client.generate("demo", "Hello!", options=GREEDY)
        assert generated.response == hello.answer
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
            await client.chat("nope", SAY)
        assert caught.value.status_code == 404


# Refusals


@each("path", PATHS)
@each(
    ("body", "text"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b'{"model":"demo"', "the request's body is not JSON: "),
        (b'{"model": }', "the request's body is not JSON: "),
        (b"\xff", "the request's body is not JSON: "),
        (b'{"options": {"x": ' + b"[" * 100_000, "the request's body is not JSON: "),
        (b"[]", "invalid request: expected object"),
        (b'"demo"', "invalid request: expected object"),
        (b'{"model": 5}', "invalid request: model: expected string"),
        (b'{"model": "demo", "stream": "yes"}', "invalid request: stream: expected boolean"),
        (b'{"model": "demo", "options": []}', "invalid request: options: expected object"),
    ],
)
async def test_bodies_that_are_refused(api: httpx.AsyncClient, path: str, body: bytes, text: str) -> None:
    response = await api.post(path, content=body)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(text)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content: expected string"),
        ({"role": "user", "content": 5}, "messages[0].content: expected string"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}, "messages[0].tool_calls[0].function.name"),
    ],
)
async def test_messages_that_are_refused(api: httpx.AsyncClient, message: Any, text: str) -> None:
    response = await api.post("/api/chat", json={"model": "demo", "messages": [message]})
    assert response.status_code == 400
    assert response.json()["error"].startswith(f"invalid request: {text}")


LEVELS = '"high", "medium", "low", "max", true, or false'
REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    *(("/api/generate", {"model": name}, 404, "model '' not found") for name in ("", " ", None)),
    *(("/api/chat", {"model": name}, 400, "model is required") for name in ("", " ", None)),
    *((path, {"model": name}, 400, "invalid model name") for path in PATHS for name in ("a b", "a/b/c/d", "é", "a:")),
    *((path, {"model": name}, 404, f"model '{name}' not found") for path in PATHS for name in ("Nope", "demo:7b")),
    *(
        (path, {"keep_alive": value}, 400, text)
        for path in PATHS
        for value, text in [
            ("abc", 'time: invalid duration "abc"'),
            ("", 'time: invalid duration ""'),
            ("1d", 'time: unknown unit "d" in duration "1d"'),
            (True, "Unsupported type: 'bool'"),
            ([], "Unsupported type: '[]interface {}'"),
            ({}, "Unsupported type: 'map[string]interface {}'"),
        ]
    ),
    *((path, {"think": "loud"}, 400, f'invalid think value: "loud" (must be {LEVELS})') for path in PATHS),
    *(
        (path, {"think": value}, 400, f"think must be a boolean or string ({LEVELS})")
        for path in PATHS
        for value in (1, [], {})
    ),
    *(
        (path, {"model": "Plain", "think": value}, 400, '"Plain" does not support thinking')
        for path in PATHS
        for value in (True, "low")
    ),
    # What is wrong with the body comes before what is wrong with the name.
    *((path, {"model": "-", "think": "x"}, 400, f'invalid think value: "x" (must be {LEVELS})') for path in PATHS),
    *((path, {"model": "-", "keep_alive": "x"}, 400, 'time: invalid duration "x"') for path in PATHS),
    ("/api/generate", {"model": "demo-embed"}, 400, '"demo-embed" does not support generate'),
    ("/api/chat", {"model": "demo-embed"}, 400, '"demo-embed" does not support chat'),
    ("/api/chat", {"model": "demo-embed", "messages": []}, 400, '"demo-embed" does not support chat'),
    (
        "/api/chat",
        {"model": "plain", "tools": list(by_name("weather-two").tools)},
        400,
        "registry.ollama.ai/library/plain:latest does not support tools",
    ),
    (
        "/api/generate",
        {"raw": True, "system": "x"},
        400,
        "raw mode does not support template, system, or context",
    ),
    *(("/api/generate", {"raw": True} | fields, 400, "raw mode does not support template, system, or context")
      for fields in ({"context": [1]}, {"template": "x"})),
    ("/api/generate", {"suffix": "x"}, 400, "registry.ollama.ai/library/demo:latest does not support insert"),
    *((path, {"top_logprobs": value, "model": name}, 400, "top_logprobs must be between 0 and 20")
      for path in PATHS for value in (-1, 21) for name in ("demo", "nope")),
    *((path, {"model": "plain", "thinking_token_budget": 9}, 400, '"plain" does not support thinking')
      for path in PATHS),
    *((path, {"format": "json", "structured_outputs": {"regex": "a"}}, 400,
       "structured_outputs: give either this or format") for path in PATHS),
    ("/api/generate", {"images": ["data:image/png;base64,"], "model": "nope"}, 400,
     "illegal base64 data at input byte 4: images are base64 data without a data: prefix"),
    ("/api/generate", {"images": ["aGk="]}, 400, "registry.ollama.ai/library/demo:latest does not support vision"),
    ("/api/chat", {"messages": [{"role": "user", "images": ["UklGRhAAAABXQVZF"]}]}, 400,
     "registry.ollama.ai/library/demo:latest does not support audio"),
    # The order of the checks: raw's conflicts, thinking, what the model is for, what it can besides, options, format.
    ("/api/generate", {"model": "plain", "raw": True, "system": "x", "think": True}, 400,
     "raw mode does not support template, system, or context"),
    *((path, {"model": "demo-embed", "think": True}, 400, '"demo-embed" does not support thinking') for path in PATHS),
    ("/api/generate", {"model": "demo-embed", "suffix": "x"}, 400, '"demo-embed" does not support generate'),
    ("/api/chat", {"model": "demo-embed", "tools": [{"function": {"name": "f"}}]}, 400,
     '"demo-embed" does not support chat'),
    ("/api/generate", {"suffix": "x", "options": {"seed": "x"}}, 400,
     "registry.ollama.ai/library/demo:latest does not support insert"),
    *((path, {"model": "plain", "think": False, "options": {"seed": "x"}, "format": "yaml"}, 500,
       'option "seed" must be of type integer') for path in PATHS),
    *(
        (path, {"options": {name: value}}, 500, f'option "{name}" must be of {kind}')
        for path in PATHS
        for name, value, kind in [
            ("temperature", "hot", "type float32"),
            ("top_k", "x", "type integer"),
            ("seed", True, "type integer"),
            ("use_mmap", 1, "type boolean"),
            ("stop", 1, "type array"),
            ("stop", [1], "an array of strings"),
        ]
    ),
    *(
        (path, {"format": value}, 500, f'invalid format: {shown}; expected "json" or a valid JSON Schema object')
        for path in PATHS
        for value, shown in [("yaml", r'"\"yaml\""'), (5, '"5"'), ([], '"[]"')]
    ),
]  # fmt: skip


@each(("path", "fields", "status", "text"), REFUSED)
async def test_refusals(
    api: httpx.AsyncClient, engines: Engines, path: str, fields: Any, status: int, text: str
) -> None:
    for stream in (True, False):
        response = await api.post(path, json=body_for(path) | fields | {"stream": stream})
        assert (response.status_code, response.json()) == (status, {"error": text})
    assert all(not fake.asked for fake in engines.fakes.values())


async def test_a_null_message_is_an_empty_one(alone: Alone) -> None:
    alone.engine.script(Stream(*chat_events("Hi")))
    assert (await alone.api.post("/api/chat", json={"model": "demo", "messages": [None]})).status_code == 200
    assert alone.engine.last_body["messages"] == [{"role": "", "content": ""}]


async def test_what_is_wrong_with_a_request_is_said_before_a_model_is_loaded(alone: Alone) -> None:
    for path, fields, status, _ in REFUSED:
        assert (await alone.api.post(path, json=body_for(path) | fields)).status_code == status
        # An empty request loads before Ollama looks at its format and its images.
        if not fields.keys() & {"format", "images", "messages"}:
            assert (await alone.api.post(path, json={"model": "demo"} | fields)).status_code == status
    assert alone.places == []


# Loading and unloading


@pytest.mark.parametrize(
    ("path", "fields", "text"),
    [
        ("/api/generate", {}, {"response": ""}),
        ("/api/generate", {"prompt": "", "stream": True, "options": None}, {"response": ""}),
        ("/api/chat", {}, {"message": {"role": "assistant", "content": ""}}),
        ("/api/chat", {"messages": [], "stream": True}, {"message": {"role": "assistant", "content": ""}}),
        ("/api/chat", {"messages": None}, {"message": {"role": "assistant", "content": ""}}),
    ],
)
async def test_an_empty_request_loads_and_keep_alive_0_unloads(
    alone: Alone, path: str, fields: dict[str, Any], text: dict[str, Any]
) -> None:
    loaded = await alone.api.post(path, json={"model": "Demo", "keep_alive": "1h"} | fields)
    assert loaded.headers["content-type"] == "application/json; charset=utf-8"
    expected = {"model": "Demo", "created_at": loaded.json()["created_at"], **text, "done": True}
    assert loaded.json() == expected | {"done_reason": "load"}
    assert list(loaded.json()) == [*expected, "done_reason"]
    assert (await alone.api.get("/health")).json()["loaded"] == ["demo:latest"]
    for keep_alive in (0, "0s"):  # the second one finds nothing loaded
        unloaded = (await alone.api.post(path, json={"model": "Demo", "keep_alive": keep_alive} | fields)).json()
        assert unloaded == expected | {"created_at": unloaded["created_at"], "done_reason": "unload"}
        await asyncio.wait_for(alone.place.stopped.wait(), 5)
    assert len(alone.places) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_an_embedding_model_can_be_unloaded(alone: Alone, path: str) -> None:
    reply = await alone.api.post(path, json={"model": "demo-embed", "keep_alive": 0})
    assert reply.json()["done_reason"] == "unload"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_a_model_that_does_not_load(alone: Alone, path: str, stream: bool) -> None:
    alone.next_place["failure"] = EngineError("the engine of demo:latest did not start", "its log is engine.log")
    for body in (body_for(path, stream=stream), {"model": "demo", "stream": stream}):
        response = await alone.api.post(path, json=body)
        expected = {"error": "the engine of demo:latest did not start: its log is engine.log"}
        assert (response.status_code, response.json()) == (500, expected)


async def test_the_queue_for_a_loading_model_is_bounded(alone: Alone) -> None:
    alone.next_place["held"] = True
    load = {"model": "demo", "keep_alive": "1h"}
    waiting = [asyncio.create_task(alone.api.post("/api/generate", json=load)) for _ in range(3)]
    done, waiting_still = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=5)
    refused = done.pop().result()
    assert (refused.status_code, refused.json()) == (503, {"error": BUSY})
    alone.place.may_start.set()
    assert [(await task).status_code for task in waiting_still] == [200, 200]
    assert len(alone.places) == 1


# Faults of the engine

FAILED = "an error was encountered while running the model: "
ENGINE_REFUSALS = [
    (refusal(400, "max_tokens must be at least 1, got 0."), 400, "max_tokens must be at least 1, got 0."),
    (refusal(503, "queue is full", "ServiceUnavailable"), 503, BUSY),
    (refusal(500, "EngineCore died.", "InternalServerError"), 500, FAILED + "EngineCore died."),
    (whole(b"Internal Server Error", 500), 500, FAILED + "Internal Server Error"),
    (refusal(404, "The model `demo:latest` does not exist.", "NotFoundError"), 404, "model 'demo' not found"),
    (whole({"detail": "Not Found"}, 404), 400, '"demo" does not support '),
    (hang_up, 500, DIED),
    (whole(b"<html>"), 500, ""),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("behaviour", "status", "text"), ENGINE_REFUSALS)
async def test_an_error_before_the_first_byte_has_its_status(
    alone: Alone, behaviour: Any, status: int, text: str, stream: bool
) -> None:
    for path in PATHS:
        alone.engine.script(*asked_twice(behaviour))
        response = await alone.api.post(path, json=body_for(path, stream=stream))
        assert response.status_code == status
        assert response.headers["content-type"].startswith("application/json")
        assert list(response.json()) == ["error"]
        assert response.json()["error"].startswith(text)
        await asyncio.wait_for(alone.place.stopped.wait(), 5)


async def test_an_error_event_before_the_first_text_has_its_status(alone: Alone) -> None:
    alone.engine.script(Stream(*events({"error": {"message": "bad schema", "code": 400}}, "[DONE]")))
    response = await alone.api.post("/api/chat", json=body_for("/api/chat"))
    assert (response.status_code, response.json()) == (400, {"error": "bad schema"})


BEGUN = chat_events("Hel", "lo")[:2]
FAILURE = {"error": {"message": "out of memory", "type": "InternalServerError", "param": None, "code": 500}}


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize(
    ("rest", "end", "text"),
    [
        ([], "cut", DIED),
        ([], "complete", DIED),
        ([b'data: {"choices": [{"del'], "cut", DIED),
        ([b'data: {"choices": [{"del'], "complete", "the engine's reply cannot be read"),
        (events("garbage"), "complete", "the engine's reply cannot be read"),
        (events({"choices": "none"}), "complete", "the engine's reply cannot be read"),
        (events(FAILURE, "[DONE]"), "complete", FAILED + "out of memory"),
    ],
)
async def test_an_error_after_the_first_byte_is_the_last_line(
    alone: Alone, rest: list[bytes], end: str, text: str, accept: str
) -> None:
    reply = Stream(*BEGUN, *rest, end=end)
    alone.engine.script(reply)
    received = ""
    body = body_for("/api/chat")
    async with alone.api.stream("POST", "/api/chat", json=body, headers={"Accept": accept}) as response:
        async for part in response.aiter_text():
            received += part
            reply.may_cut.set()
    *chunks, last = lines_of(response, received)
    assert [chunk["message"]["content"] for chunk in chunks] == ["Hel"]
    assert list(last) == ["error"]
    assert last["error"].startswith(text)


@pytest.mark.parametrize("wrong", [events(FAILURE), events("garbage")])
async def test_what_came_with_an_error_is_not_lost(alone: Alone, wrong: list[bytes]) -> None:
    alone.engine.script(Stream(b"".join([*BEGUN, *wrong])))
    chunk, last = lines_of(await alone.api.post("/api/chat", json=body_for("/api/chat")))
    assert (chunk["message"]["content"], list(last)) == ("Hel", ["error"])


@pytest.mark.parametrize(
    "chunks",
    [
        [b"".join(chat_events("Hel", "lo"))],
        [bytes([byte]) for byte in b"".join(chat_events("Hel", "lo"))],
        [event.replace(b"\n", b"\r\n") for event in chat_events("Hel", "lo")],
        [part for event in chat_events("Hel", "lo") for part in (b": ping\n\n", event)],
        chat_events("", "Hel", "", "lo", finish=None),
    ],
    ids=["one read", "every byte", "crlf", "comments", "no finish reason"],
)
async def test_pieces_do_not_matter(alone: Alone, chunks: list[bytes]) -> None:
    alone.engine.script(Stream(*chunks))
    *lines, final = lines_of(await alone.api.post("/api/chat", json=body_for("/api/chat")))
    assert "".join(line["message"]["content"] for line in lines) == "Hello"
    assert final["done"] is True
    assert (final["prompt_eval_count"], all(final[name] > 0 for name in METRICS)) == (7, True)


# Clients that leave


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("path", PATHS)
async def test_leaving_in_the_middle_of_a_stream_aborts_it(alone: Alone, path: str, accept: str) -> None:
    reply = Stream(*BEGUN, end="hang")
    alone.engine.script(reply)
    async with alone.api.stream("POST", path, json=body_for(path), headers={"Accept": accept}) as response:
        assert "Hel" in await anext(response.aiter_text())
        assert not reply.aborted.is_set()
        assert not alone.place.stopped.is_set()
    await asyncio.wait_for(reply.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)  # unloaded: its last user has left


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_leaving_before_the_answer_aborts_it(alone: Alone, path: str, stream: bool) -> None:
    silence = Silence()
    alone.engine.script(silence)
    asking = asyncio.create_task(alone.api.post(path, json=body_for(path, stream=stream)))
    await asyncio.wait_for(silence.reached.wait(), 5)
    asking.cancel()
    await asyncio.wait_for(silence.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream": False}, {"messages": []}])
async def test_leaving_while_the_model_loads(alone: Alone, fields: dict[str, Any]) -> None:
    alone.next_place["held"] = True
    asking = asyncio.create_task(alone.api.post("/api/chat", json=body_for("/api/chat") | fields))
    while not alone.places:
        await asyncio.sleep(0.001)
    await asyncio.wait_for(alone.place.starting.wait(), 5)
    asking.cancel()
    await asyncio.wait([asking])
    await _until_left(alone)
    alone.place.may_start.set()
    await asyncio.wait_for(alone.place.stopped.wait(), 5)
    assert alone.engine.asked == []


async def _until_left(alone: Alone) -> None:
    """Until the gateway has seen that its client is gone."""
    while alone.scheduler._waiters:
        await asyncio.sleep(0.001)
