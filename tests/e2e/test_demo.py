"""The demo model on a real vLLM, through the gateway's command line and real clients."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
import openai
import pytest

from tests.clients.talk import MODELS
from tests.served import Served, wait_until
from vllama.demo.dialogues import COMPLETIONS, DIALOGUES, Dialogue, by_name

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

GREEDY = {"temperature": 0}
METRICS = {
    "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration",
}  # fmt: skip
FINITE = [dialogue for dialogue in DIALOGUES if not dialogue.endless]


@pytest.fixture
async def http(demo: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=demo.url, timeout=120) as client:
        yield client


def chat_body(dialogue: Dialogue, **more: Any) -> dict[str, Any]:
    messages = [_as_ollama(message) for message in dialogue.messages]
    return {"model": "demo", "messages": messages, "tools": list(dialogue.tools), "options": GREEDY, **more}


def _as_ollama(message: dict[str, Any]) -> dict[str, Any]:
    """The dialogues are in OpenAI's form, whose arguments are JSON texts."""
    if "tool_calls" not in message:
        return message
    calls = [
        {"function": {"name": call["function"]["name"], "arguments": _object(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls}


def _object(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def expected_calls(dialogue: Dialogue) -> list[tuple[int, str, dict[str, Any]]]:
    return [(index, call.name, call.arguments) for index, call in enumerate(dialogue.tool_calls)]


def calls_of(message: dict[str, Any]) -> list[tuple[int, str, dict[str, Any]]]:
    functions = [call["function"] for call in message.get("tool_calls", ())]
    return [(function["index"], function["name"], function["arguments"]) for function in functions]


@pytest.mark.parametrize("dialogue", FINITE, ids=lambda dialogue: dialogue.name)
async def test_answers_word_for_word(http: httpx.AsyncClient, dialogue: Dialogue) -> None:
    reply = (await http.post("/api/chat", json=chat_body(dialogue, stream=False))).json()
    assert reply["message"]["content"] == dialogue.answer
    assert reply["message"].get("thinking", "") == dialogue.thinking
    assert calls_of(reply["message"]) == expected_calls(dialogue)
    assert reply["done"] is True
    assert reply["done_reason"] == "stop"
    assert all(reply[name] > 0 for name in METRICS)


@pytest.mark.parametrize("dialogue", FINITE, ids=lambda dialogue: dialogue.name)
async def test_streams_the_same_without_thinking(http: httpx.AsyncClient, dialogue: Dialogue) -> None:
    async with http.stream("POST", "/api/chat", json=chat_body(dialogue, think=False)) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) async for line in response.aiter_lines()]
    *chunks, last = lines
    assert "".join(line["message"]["content"] for line in lines) == dialogue.answer
    assert [call for line in lines for call in calls_of(line["message"])] == expected_calls(dialogue)
    assert not any("thinking" in line["message"] for line in lines)
    assert not any(chunk["done"] or METRICS & chunk.keys() for chunk in chunks)
    assert last["done"] is True
    assert all(last[name] > 0 for name in METRICS)


async def test_thinking_is_streamed_before_the_answer(http: httpx.AsyncClient) -> None:
    dialogue = by_name("hello")
    async with http.stream("POST", "/api/chat", json=chat_body(dialogue)) as response:
        lines = [json.loads(line) async for line in response.aiter_lines()]
    kinds = ["thinking" if "thinking" in line["message"] else "content" for line in lines]
    assert kinds == sorted(kinds, reverse=True)
    assert "".join(line["message"].get("thinking", "") for line in lines) == dialogue.thinking


@pytest.mark.parametrize("completion", COMPLETIONS, ids=lambda completion: completion.name)
async def test_raw_completions_run_to_their_end(http: httpx.AsyncClient, completion: Any) -> None:
    body = {"model": "demo", "prompt": completion.prompt, "raw": True, "stream": False, "options": GREEDY}
    reply = (await http.post("/api/generate", json=body)).json()
    assert reply["response"] == completion.text
    assert reply["done_reason"] == "stop"


async def test_generate_uses_the_template_and_the_system_text(http: httpx.AsyncClient) -> None:
    dialogue = next(entry for entry in DIALOGUES if entry.messages[0]["role"] == "system")
    body = {"model": "demo", "system": dialogue.messages[0]["content"], "prompt": dialogue.question,
            "stream": False, "options": GREEDY}  # fmt: skip
    reply = (await http.post("/api/generate", json=body)).json()
    assert reply["response"] == dialogue.answer
    assert reply["thinking"] == dialogue.thinking


async def test_server_sent_events_on_request(http: httpx.AsyncClient) -> None:
    body = chat_body(by_name("hello"), think=False)
    async with http.stream("POST", "/api/chat", json=body, headers={"Accept": "text/event-stream"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: ")]
    assert "".join(event["message"]["content"] for event in events) == by_name("hello").answer
    assert events[-1]["done"] is True


async def test_structured_output(http: httpx.AsyncClient) -> None:
    dialogue = next(entry for entry in DIALOGUES if entry.schema is not None)
    reply = (await http.post("/api/chat", json=chat_body(dialogue, stream=False, format=dialogue.schema))).json()
    assert json.loads(reply["message"]["content"]) == json.loads(dialogue.answer)


async def test_num_predict_and_stop(http: httpx.AsyncClient) -> None:
    options = GREEDY | {"num_predict": 5}
    reply = (await http.post("/api/chat", json=chat_body(by_name("hello"), stream=False, options=options))).json()
    assert reply["done_reason"] == "length"
    assert reply["eval_count"] == 5
    options = GREEDY | {"stop": [*(f"not there {number}" for number in range(10)), "vLLama"]}
    body = chat_body(by_name("hello"), stream=False, options=options, think=False)
    reply = (await http.post("/api/chat", json=body)).json()
    assert reply["message"]["content"] == by_name("hello").answer.split("vLLama")[0]


@pytest.mark.parametrize("words", [10_000, 100_000])
async def test_a_prompt_beyond_the_context_is_refused_in_plain_words(http: httpx.AsyncClient, words: int) -> None:
    response = await http.post("/api/generate", json={"model": "demo", "prompt": "hello " * words})
    assert response.status_code == 400
    assert "longer than the context length" in response.json()["error"]


async def test_many_at_once(http: httpx.AsyncClient) -> None:
    import asyncio

    async def ask(dialogue: Dialogue) -> bool:
        reply = (await http.post("/api/chat", json=chat_body(dialogue, stream=False))).json()
        return bool(reply["message"]["content"] == dialogue.answer)

    assert all(await asyncio.gather(*(ask(dialogue) for dialogue in FINITE * 3)))


async def test_a_client_that_leaves_frees_its_slot(demo: Served, http: httpx.AsyncClient) -> None:
    endless = next(entry for entry in DIALOGUES if entry.endless)
    async with http.stream("POST", "/api/chat", json=chat_body(endless)) as response:
        lines = response.aiter_lines()
        await anext(lines)
    until = (await http.get("/api/ps")).json()["models"][0]["expires_at"]

    def idle() -> bool:
        """expires_at is counted anew when the last user has left."""
        return bool(httpx.get(f"{demo.url}/api/ps").json()["models"][0]["expires_at"] > until)

    wait_until(idle, 5, "the request ends with its client")


async def test_openai_routes_keep_the_clients_name(http: httpx.AsyncClient) -> None:
    body = {"model": "DEMO:latest", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0}
    reply = (await http.post("/v1/chat/completions", json=body)).json()
    assert reply["model"] == "DEMO:latest"
    assert reply["choices"][0]["message"]["content"].strip() == by_name("hello").answer
    refused = await http.post("/v1/embeddings", json={"model": "demo", "input": "x"})
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"


async def test_the_openai_client(demo: Served) -> None:
    async with openai.AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Hello!"}], temperature=0, stream=True
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text.strip() == by_name("hello").answer
        assert {chunk.model for chunk in chunks} == {"demo"}
        completion = await client.completions.create(
            model="demo", prompt=COMPLETIONS[0].prompt, temperature=0, max_tokens=100
        )
        assert completion.choices[0].text == COMPLETIONS[0].text
        assert {model.id async for model in client.models.list()} == MODELS


@pytest.fixture
async def client(demo: Served) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=demo.url) as connected:
        yield connected


async def test_the_ollama_client(client: ollama.AsyncClient) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    whole = await client.chat(model="demo", messages=messages, options=GREEDY)
    assert whole.message.content == by_name("hello").answer
    assert whole.message.thinking == by_name("hello").thinking
    parts = [part async for part in await client.chat(model="demo", messages=messages, options=GREEDY, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == by_name("hello").answer
    assert parts[-1].eval_count == whole.eval_count
    generated = await client.generate(model="demo", prompt="Hello!", options=GREEDY)
    assert generated.response == by_name("hello").answer
    assert {model.model for model in (await client.list()).models} == MODELS
    shown = await client.show("demo")
    assert shown.modelinfo is not None
    assert shown.modelinfo["qwen3.context_length"] == 4096
    assert shown.capabilities == ["completion", "tools", "thinking"]
    running = (await client.ps()).models[0]
    assert running.model == "demo:latest"
    assert running.context_length == 4096


async def test_tools_with_the_ollama_client(client: ollama.AsyncClient) -> None:
    """The client makes the tool's declaration of a function itself, and its objects are sent back as they came."""

    def get_weather(city: str) -> str:
        """Get the current weather of a city.

        Args:
            city: The city's name
        """
        return json.dumps({"temperature": 18, "condition": "sunny"})

    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    reply = await client.chat(model="demo", messages=messages, tools=[get_weather], options=GREEDY)
    assert reply.message.tool_calls is not None
    call = reply.message.tool_calls[0].function
    assert (call.name, call.arguments) == ("get_weather", {"city": "Paris"})
    messages += [reply.message, {"role": "tool", "tool_name": call.name, "content": get_weather(**call.arguments)}]
    answer = await client.chat(model="demo", messages=messages, tools=[get_weather], options=GREEDY)
    assert "18" in (answer.message.content or "")
