"""OpenAI's client."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.clients.talk import (
    CITY,
    HELLO,
    MODELS,
    PARIS,
    SONG,
    WEATHER,
    WEATHER_ANSWER,
    City,
    requests_finished,
    says,
    wait_idle,
)
from tests.served import Served
from vllama.demo.dialogues import COMPLETIONS, WEATHER_TOOL

pytestmark = [pytest.mark.engine, pytest.mark.clients, pytest.mark.timeout(300)]


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as connected:
        yield connected


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="demo", messages=says(HELLO.question), temperature=0)
    (choice,) = reply.choices
    assert (reply.model, reply.object) == ("demo", "chat.completion")
    assert (choice.message.role, choice.message.content) == ("assistant", HELLO.answer)
    assert choice.message.reasoning == HELLO.thinking
    assert choice.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_streamed_chat(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=says(HELLO.question),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == HELLO.answer
    assert "".join(getattr(choice.delta, "reasoning", None) or "" for choice in choices) == HELLO.thinking
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert {chunk.model for chunk in chunks} == {"demo"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


async def test_the_async_client(url: str) -> None:
    ask: Any = {"model": "demo", "messages": says(HELLO.question), "temperature": 0, "reasoning_effort": "none"}
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.stream(**ask) as stream,
    ):
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.content == HELLO.answer


def test_tools(client: openai.OpenAI) -> None:
    messages: list[Any] = says(WEATHER.question)
    asked = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER_TOOL], temperature=0)
    (choice,) = asked.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 18, "condition": "sunny"}'}
    messages += [choice.message, result]
    told = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER_TOOL], temperature=0)
    assert told.choices[0].message.content == WEATHER_ANSWER


def test_streamed_tools(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo", messages=says(WEATHER.question), tools=[WEATHER_TOOL], temperature=0
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})


def test_structured_output(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(
        model="demo", messages=says(CITY.question), response_format=City, temperature=0
    )
    assert reply.choices[0].message.parsed == PARIS


def test_log_probabilities_of_two_answers(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="demo", messages=says(HELLO.question), n=2, logprobs=True, top_logprobs=2, max_completion_tokens=4, seed=1
    )
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert choice.finish_reason == "length"
        assert choice.logprobs is not None
        assert [len(entry.top_logprobs) for entry in choice.logprobs.content or ()] == [2] * 4


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="demo", prompt=COMPLETIONS[0].prompt, temperature=0, max_tokens=100)
    assert reply.choices[0].text == COMPLETIONS[0].text


def test_responses(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="demo", input=HELLO.question, temperature=0)
    assert (reply.model, reply.object, reply.status, reply.error) == ("demo", "response", "completed", None)
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert reply.output_text == HELLO.answer
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens


def test_streamed_responses(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="demo", input=HELLO.question, temperature=0, stream=True))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == HELLO.answer
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.model, last.response.output_text) == ("demo", HELLO.answer)


def test_tools_in_responses(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": False} | WEATHER_TOOL["function"]
    items: list[Any] = says(WEATHER.question)
    asked = client.responses.create(model="demo", input=items, tools=[tool], temperature=0)
    (call,) = (item for item in asked.output if item.type == "function_call")
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"temperature": 18}'}
    told = client.responses.create(model="demo", input=[*items, *asked.output, result], tools=[tool], temperature=0)
    assert told.output_text == WEATHER_ANSWER


def test_the_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == MODELS
    model = client.models.retrieve("demo")
    assert (model.id, model.object, model.owned_by) == ("demo", "model", "library")


NOT_FOUND: dict[str, tuple[Callable[[openai.OpenAI], Any], str]] = {
    "chat": (lambda c: c.chat.completions.create(model="nope", messages=says("x")), "model 'nope' not found"),
    "stream": (
        lambda c: c.chat.completions.create(model="nope", messages=says("x"), stream=True),
        "model 'nope' not found",
    ),
    "completions": (lambda c: c.completions.create(model="nope", prompt="x"), "model 'nope' not found"),
    "responses": (lambda c: c.responses.create(model="nope", input="x"), "model 'nope' not found"),
    "embeddings": (
        lambda c: c.embeddings.create(model="nope", input="x"),
        'model "nope" not found, try pulling it first',
    ),
    "models": (lambda c: c.models.retrieve("nope"), "model 'nope:latest' not found"),
}


@pytest.mark.parametrize(("call", "text"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_unknown_models(client: openai.OpenAI, call: Callable[[openai.OpenAI], Any], text: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        call(client)
    assert caught.value.body == {"message": text, "type": "not_found_error", "param": None, "code": None}


REFUSED: dict[str, tuple[Callable[[openai.OpenAI], Any], str]] = {
    "no messages": (lambda c: c.chat.completions.create(model="demo", messages=[]), "[] is too short - 'messages'"),
    "type": (
        lambda c: c.chat.completions.create(model="demo", messages=says("x"), temperature="hot"),
        "temperature",
    ),
    "chat by embeddings": (
        lambda c: c.chat.completions.create(model="demo-embed", messages=says("x")),
        '"demo-embed" does not support chat',
    ),
    "too long": (
        lambda c: c.chat.completions.create(model="demo", messages=says("hello " * 10_000)),
        "longer than the context length",
    ),
}


@pytest.mark.parametrize(("call", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_requests(client: openai.OpenAI, call: Callable[[openai.OpenAI], Any], text: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        call(client)
    assert caught.value.type == "invalid_request_error"
    assert text in caught.value.body["message"]


def test_closing_a_stream_ends_its_request(demo: Served, client: openai.OpenAI) -> None:
    finished = requests_finished(demo)
    stream = client.chat.completions.create(model="demo", messages=says(SONG), temperature=0, stream=True)
    next(stream)
    assert demo.engine_metric("vllm:num_requests_running") == 1
    stream.close()
    wait_idle(demo, finished)
