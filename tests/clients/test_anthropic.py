"""Anthropic's client."""

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest

from tests.clients.talk import HELLO, SONG, WEATHER, WEATHER_ANSWER, requests_finished, says, wait_idle
from tests.served import Served
from vllama.demo.dialogues import WEATHER_TOOL, by_name

pytestmark = [pytest.mark.engine, pytest.mark.clients, pytest.mark.timeout(300)]

ASK: dict[str, Any] = {"model": "demo", "max_tokens": 500, "extra_body": {"temperature": 0}}
"""The client itself has no temperature to choose."""
PLAIN: dict[str, Any] = {**ASK, "thinking": {"type": "disabled"}}
TOOL: Any = {
    "name": "get_weather",
    "description": WEATHER_TOOL["function"]["description"],
    "input_schema": WEATHER_TOOL["function"]["parameters"],
}


@pytest.fixture
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as connected:
        yield connected


def test_messages(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(messages=says(HELLO.question), **PLAIN)
    assert (reply.type, reply.role, reply.model) == ("message", "assistant", "demo")
    assert [(block.type, block.text) for block in reply.content] == [("text", HELLO.answer)]
    assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 0
    assert reply.id.startswith("msg_")


def test_beta_messages(client: anthropic.Anthropic) -> None:
    """The address ends in ?beta=true, and a header lists what the client would like to try."""
    reply = client.beta.messages.create(
        messages=says(HELLO.question), betas=["interleaved-thinking-2025-05-14"], **PLAIN
    )
    assert reply.content[0].text == HELLO.answer


def test_a_system_text(client: anthropic.Anthropic) -> None:
    pirate = by_name("pirate-hello")
    system: Any = [{"type": "text", "text": pirate.messages[0]["content"], "cache_control": {"type": "ephemeral"}}]
    for given in (pirate.messages[0]["content"], system):
        reply = client.messages.create(messages=says(pirate.question), system=given, **PLAIN)
        assert reply.content[0].text == pirate.answer


def test_thinking(client: anthropic.Anthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    reply = client.messages.create(messages=says(HELLO.question), **{**ASK, "max_tokens": 2000, "thinking": thinking})
    first, second = reply.content
    assert (first.type, first.thinking) == ("thinking", HELLO.thinking)
    assert (second.type, second.text) == ("text", HELLO.answer)


def test_the_token_limit(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(messages=says(HELLO.question), **{**PLAIN, "max_tokens": 3})
    assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 3)


def test_a_stream(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(messages=says(HELLO.question), **PLAIN)
    with client.messages.stream(messages=says(HELLO.question), **PLAIN) as stream:
        assert "".join(stream.text_stream) == HELLO.answer
    reply = stream.get_final_message()
    assert reply.stop_reason == "end_turn"
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (
        whole.usage.input_tokens,
        whole.usage.output_tokens,
    )


def test_a_stream_of_thoughts(client: anthropic.Anthropic) -> None:
    with client.messages.stream(messages=says(HELLO.question), **ASK) as stream:
        kinds = [event.type for event in stream]
    assert [block.type for block in stream.get_final_message().content] == ["thinking", "text"]
    assert kinds.index("thinking") < kinds.index("text")
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


async def test_the_async_client(url: str) -> None:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
        client.messages.stream(messages=says(HELLO.question), **PLAIN) as stream,
    ):
        assert await stream.get_final_text() == HELLO.answer


def ask_whole(client: anthropic.Anthropic, **more: Any) -> anthropic.types.Message:
    return client.messages.create(**PLAIN, **more)


def ask_streaming(client: anthropic.Anthropic, **more: Any) -> anthropic.types.Message:
    with client.messages.stream(**PLAIN, **more) as stream:
        return stream.get_final_message()


@pytest.mark.parametrize("ask", [ask_whole, ask_streaming])
def test_tools(client: anthropic.Anthropic, ask: Callable[..., anthropic.types.Message]) -> None:
    messages: list[Any] = says(WEATHER.question)
    asked = ask(client, messages=messages, tools=[TOOL])
    assert asked.stop_reason == "tool_use"
    (call,) = (block for block in asked.content if block.type == "tool_use")
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 18, "condition": "sunny"}'}
    messages += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    assert ask(client, messages=messages, tools=[TOOL]).content[0].text == WEATHER_ANSWER


def test_counted_tokens(client: anthropic.Anthropic) -> None:
    reply = client.messages.create(messages=says(HELLO.question), **PLAIN)
    plain: Any = {"type": "disabled"}
    counted = client.messages.count_tokens(model="demo", messages=says(HELLO.question), thinking=plain)
    assert counted.input_tokens == reply.usage.input_tokens
    assert client.messages.count_tokens(model="demo", messages=says("x"), tools=[TOOL]).input_tokens > 50


def test_an_unknown_model(client: anthropic.Anthropic) -> None:
    for ask in (client.messages.create, client.messages.count_tokens):
        limit = {"max_tokens": 5} if ask == client.messages.create else {}
        with pytest.raises(anthropic.NotFoundError) as caught:
            ask(model="nope", messages=says("x"), **limit)
        assert caught.value.body["type"] == "error"
        assert caught.value.body["error"] == {"type": "not_found_error", "message": "model 'nope' not found"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no limit": ({"max_tokens": 0}, "max_tokens is required and must be positive"),
    "no messages": ({"messages": []}, "messages is required"),
    "no model": ({"model": ""}, "model is required"),
    "no chat": ({"model": "demo-embed"}, '"demo-embed" does not support chat'),
}


@pytest.mark.parametrize(("wrong", "text"), REFUSED.values(), ids=REFUSED)
def test_bad_requests(client: anthropic.Anthropic, wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{"messages": says("x"), **PLAIN, **wrong})
    assert caught.value.body["error"] == {"type": "invalid_request_error", "message": text}
    assert caught.value.body["request_id"].startswith("req_")


def test_leaving_a_stream_ends_its_request(demo: Served, client: anthropic.Anthropic) -> None:
    finished = requests_finished(demo)
    with client.messages.stream(messages=says(SONG), **PLAIN) as stream:
        next(stream.text_stream)
        assert demo.engine_metric("vllm:num_requests_running") == 1
    wait_idle(demo, finished)
