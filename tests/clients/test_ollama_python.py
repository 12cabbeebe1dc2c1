"""Ollama's own client for Python."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import ollama
import pytest

from tests.clients.talk import (
    CITY,
    GREEDY,
    HELLO,
    MODELS,
    PARIS,
    SONG,
    WEATHER,
    WEATHER_ANSWER,
    City,
    get_weather,
    requests_finished,
    says,
    wait_idle,
)
from tests.served import Served
from vllama.demo.dialogues import COMPLETIONS

pytestmark = [pytest.mark.engine, pytest.mark.clients, pytest.mark.timeout(300)]


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=url) as connected:
        yield connected


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=url) as connected:
        yield connected


def joined(parts: list[ollama.ChatResponse]) -> tuple[str, str]:
    thinking = "".join(part.message.thinking or "" for part in parts)
    return thinking, "".join(part.message.content or "" for part in parts)


def test_chat(client: ollama.Client) -> None:
    reply = client.chat("demo", says(HELLO.question), options=GREEDY)
    assert reply.model == "demo"
    assert reply.message.role == "assistant"
    assert (reply.message.thinking, reply.message.content) == (HELLO.thinking, HELLO.answer)
    assert (reply.done, reply.done_reason) == (True, "stop")
    durations = (reply.load_duration, reply.prompt_eval_duration, reply.eval_duration)
    assert all(duration is not None and 0 < duration < (reply.total_duration or 0) for duration in durations)
    assert (reply.prompt_eval_count or 0) > 0
    assert reply.created_at is not None
    assert datetime.fromisoformat(reply.created_at).tzinfo == UTC


def test_streamed_chat(client: ollama.Client) -> None:
    whole = client.chat("demo", says(HELLO.question), options=GREEDY)
    *parts, last = client.chat("demo", says(HELLO.question), options=GREEDY, stream=True)
    assert joined([*parts, last]) == (HELLO.thinking, HELLO.answer)
    assert not any(part.done for part in parts)
    assert (last.done, last.done_reason, last.eval_count) == (True, "stop", whole.eval_count)


async def test_the_async_client_chats(async_client: ollama.AsyncClient) -> None:
    whole = await async_client.chat("demo", says(HELLO.question), options=GREEDY)
    stream = await async_client.chat("demo", says(HELLO.question), options=GREEDY, stream=True)
    parts = [part async for part in stream]
    assert joined(parts) == (HELLO.thinking, HELLO.answer) == joined([whole])


def test_a_conversation(client: ollama.Client) -> None:
    """The client's own objects, with what it does not know of left in them, go back as they came."""
    messages: list[Any] = says("My name is Grace.")
    messages.append(client.chat("demo", messages, options=GREEDY).message)
    messages += says("What is my name?")
    assert client.chat("demo", messages, options=GREEDY).message.content == "Your name is Grace."


@pytest.mark.parametrize("think", [True, "high"])
def test_thinking(client: ollama.Client, think: Any) -> None:
    reply = client.chat("demo", says(HELLO.question), options=GREEDY, think=think)
    assert (reply.message.thinking, reply.message.content) == (HELLO.thinking, HELLO.answer)


def test_no_thinking(client: ollama.Client) -> None:
    reply = client.chat("demo", says(HELLO.question), options=GREEDY, think=False)
    assert (reply.message.thinking, reply.message.content) == (None, HELLO.answer)


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_as_a_tool(client: ollama.Client, stream: bool) -> None:
    """The client writes the tool's declaration itself, from the function's docstring."""

    def turn() -> list[ollama.ChatResponse]:
        reply = client.chat("demo", messages, tools=[get_weather], options=GREEDY, stream=stream)
        return list(reply) if stream else [reply]

    messages: list[Any] = says(WEATHER.question)
    parts = turn()
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [("get_weather", {"city": "Paris"})]
    assert parts[-1].done_reason == "stop"
    messages += [part.message for part in parts if part.message.tool_calls]
    messages.append({"role": "tool", "tool_name": "get_weather", "content": get_weather("Paris")})
    assert joined(turn())[1] == WEATHER_ANSWER


@pytest.mark.parametrize("think", [False, True])
def test_structured_output(client: ollama.Client, think: bool) -> None:
    reply = client.chat("demo", says(CITY.question), format=City.model_json_schema(), options=GREEDY, think=think)
    assert City.model_validate_json(reply.message.content or "") == PARIS


def test_log_probabilities(client: ollama.Client) -> None:
    reply = client.chat("demo", says(HELLO.question), think=False, logprobs=True, top_logprobs=2, options=GREEDY)
    assert reply.logprobs is not None
    assert "".join(entry.token for entry in reply.logprobs).strip() == HELLO.answer
    for entry in reply.logprobs:
        assert entry.top_logprobs is not None
        first, second = entry.top_logprobs
        assert first.token == entry.token
        assert 0 >= first.logprob == entry.logprob > second.logprob


def test_options_as_an_object(client: ollama.Client) -> None:
    options = ollama.Options(temperature=0, num_predict=5, num_ctx=2048, stop=["never said"])
    reply = client.chat("demo", says(HELLO.question), options=options)
    assert (reply.done_reason, reply.eval_count) == ("length", 5)


@pytest.mark.parametrize(("keep_alive", "least", "most"), [(-1, 100 * 365 * 86400, 10**11), ("5m", 200, 300)])
def test_keep_alive(client: ollama.Client, keep_alive: Any, least: float, most: float) -> None:
    client.generate("demo", keep_alive=keep_alive)
    (running,) = client.ps().models
    assert running.expires_at is not None
    assert least < (running.expires_at - datetime.now(UTC)).total_seconds() <= most


def test_generate(client: ollama.Client) -> None:
    reply = client.generate("demo", HELLO.question, options=GREEDY)
    assert (reply.thinking, reply.response) == (HELLO.thinking, HELLO.answer)
    *parts, last = client.generate("demo", HELLO.question, options=GREEDY, stream=True)
    assert "".join(part.response or "" for part in (*parts, last)) == HELLO.answer
    assert (last.done_reason, last.eval_count) == ("stop", reply.eval_count)


def test_context_goes_on_with_a_conversation(client: ollama.Client) -> None:
    told = client.generate("demo", "My name is Ada.", options=GREEDY, think=False)
    assert told.context
    asked = client.generate("demo", "What is my name?", context=told.context, options=GREEDY, think=False)
    assert asked.response == "Your name is Ada."
    assert asked.context is not None
    assert len(asked.context) > len(told.context)


def test_a_raw_prompt(client: ollama.Client) -> None:
    reply = client.generate("demo", COMPLETIONS[0].prompt, raw=True, options=GREEDY)
    assert (reply.response, reply.context) == (COMPLETIONS[0].text, None)


def test_an_empty_prompt_loads(client: ollama.Client) -> None:
    reply = client.generate("demo")
    assert (reply.response, reply.done, reply.done_reason) == ("", True, "load")


def test_the_models(client: ollama.Client) -> None:
    models = {model.model: model for model in client.list().models}
    assert set(models) == MODELS
    for model in models.values():
        assert model.size
        assert model.modified_at is not None
        assert model.details is not None
        assert model.details.format == "safetensors"
    digests = {model.digest for model in models.values()}
    assert {len(digest or "") for digest in digests} == {64}
    assert len(digests) == len(models)


def test_show(client: ollama.Client) -> None:
    shown = client.show("demo")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "qwen3"
    assert shown.modelinfo["qwen3.context_length"] == 4096
    assert shown.modelinfo["qwen3.embedding_length"] == 128
    assert "FROM " in (shown.modelfile or "")
    assert shown.template
    assert client.show("demo-embed").capabilities == ["embedding"]


def test_ps(client: ollama.Client) -> None:
    client.generate("demo")
    (running,) = client.ps().models
    assert running.model == running.name == "demo:latest"
    assert running.context_length == 4096
    assert running.expires_at is not None
    assert running.expires_at > datetime.now(UTC)
    assert running.digest == next(model.digest for model in client.list().models if model.model == running.model)


REFUSED: dict[str, tuple[Callable[[ollama.Client], Any], int, str]] = {
    "unknown to chat": (lambda c: c.chat("nope", says("x")), 404, "model 'nope' not found"),
    "unknown to a stream": (lambda c: list(c.chat("nope", says("x"), stream=True)), 404, "model 'nope' not found"),
    "unknown to generate": (lambda c: c.generate("nope", "x"), 404, "model 'nope' not found"),
    "unknown to show": (lambda c: c.show("nope"), 404, "model 'nope:latest' not found"),
    "unknown to embed": (lambda c: c.embed("nope", "x"), 404, 'model "nope" not found, try pulling it first'),
    # The client refuses empty names itself.
    "no name for chat": (lambda c: c.chat(" ", says("x")), 400, "model is required"),
    "no name for embeddings": (lambda c: c.embeddings(" ", "x"), 400, "model is required"),
    "no valid name": (lambda c: c.chat("a b", says("x")), 400, "invalid model name"),
    "chat by embeddings": (lambda c: c.chat("demo-embed", says("x")), 400, '"demo-embed" does not support chat'),
    "text by embeddings": (lambda c: c.generate("demo-embed", "x"), 400, '"demo-embed" does not support generate'),
    "suffix": (
        lambda c: c.generate("demo", "x", suffix="y"),
        400,
        "registry.ollama.ai/library/demo:latest does not support insert",
    ),
    "image": (
        lambda c: c.generate("demo", "x", images=[b"\x89PNG"]),
        400,
        "registry.ollama.ai/library/demo:latest does not support vision",
    ),
    "raw and system": (
        lambda c: c.generate("demo", "x", raw=True, system="y"),
        400,
        "raw mode does not support template, system, or context",
    ),
    "think": (
        lambda c: c.chat("demo", says("x"), think="hard"),
        400,
        'invalid think value: "hard" (must be "high", "medium", "low", "max", true, or false)',
    ),
    "top_logprobs": (
        lambda c: c.chat("demo", says("x"), top_logprobs=21),
        400,
        "top_logprobs must be between 0 and 20",
    ),
    "option": (
        lambda c: c.chat("demo", says("x"), options={"temperature": "hot"}),
        500,
        'option "temperature" must be of type float32',
    ),
}


@pytest.mark.parametrize(("call", "status", "text"), REFUSED.values(), ids=REFUSED)
def test_errors(client: ollama.Client, call: Callable[[ollama.Client], Any], status: int, text: str) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        call(client)
    assert (caught.value.status_code, caught.value.error) == (status, text)


async def test_closing_a_stream_ends_its_request(demo: Served, async_client: ollama.AsyncClient) -> None:
    finished = requests_finished(demo)
    stream = await async_client.chat("demo", says(SONG), options=GREEDY, stream=True)
    await anext(stream)
    assert demo.engine_metric("vllm:num_requests_running") == 1
    await stream.aclose()
    wait_idle(demo, finished)


def test_breaking_out_of_a_stream_ends_its_request(demo: Served, client: ollama.Client) -> None:
    finished = requests_finished(demo)
    stream = client.generate("demo", SONG, options=GREEDY, stream=True)
    next(stream)
    assert demo.engine_metric("vllm:num_requests_running") == 1
    stream.close()
    wait_idle(demo, finished)
