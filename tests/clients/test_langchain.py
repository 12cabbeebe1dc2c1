"""LangChain's client for Ollama."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama

from tests.clients import talk
from tests.clients.talk import CITY, HELLO, PARIS, WEATHER, WEATHER_ANSWER, City

pytestmark = [pytest.mark.engine, pytest.mark.clients, pytest.mark.timeout(300)]

Chat = Callable[..., ChatOllama]
ASK: dict[str, Any] = {
    "model": "demo",
    "temperature": 0,
    "validate_model_on_init": True,
    "client_kwargs": talk.NO_IDLE_CONNECTIONS,
}
get_weather = tool(talk.get_weather)


@pytest.fixture
def chat(url: str) -> Chat:
    """`chat(...)`: a client with these options, which looks for its model at once."""
    return lambda **more: ChatOllama(base_url=url, **{**ASK, **more})


def test_invoke(chat: Chat) -> None:
    message = chat().invoke(HELLO.question)
    assert message.content == HELLO.answer
    assert "reasoning_content" not in message.additional_kwargs
    assert message.response_metadata["done_reason"] == "stop"
    assert message.usage_metadata["output_tokens"] == message.response_metadata["eval_count"] > 0


def test_stream(chat: Chat) -> None:
    parts = list(chat().stream(HELLO.question))
    assert len(parts) > 2
    assert "".join(part.content for part in parts) == HELLO.answer


async def test_async(chat: Chat) -> None:
    assert (await chat().ainvoke(HELLO.question)).content == HELLO.answer
    assert "".join([part.content async for part in chat().astream(HELLO.question)]) == HELLO.answer


def test_reasoning(chat: Chat) -> None:
    message = chat(reasoning=True).invoke(HELLO.question)
    assert (message.additional_kwargs["reasoning_content"], message.content) == (HELLO.thinking, HELLO.answer)
    whole = AIMessageChunk(content="")
    for part in chat(reasoning=True).stream(HELLO.question):
        whole += part
    assert (whole.additional_kwargs["reasoning_content"], whole.content) == (HELLO.thinking, HELLO.answer)
    assert chat(reasoning=False).invoke(HELLO.question).content == HELLO.answer


def test_tools(chat: Chat) -> None:
    bound = chat().bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(WEATHER.question)]
    asked = bound.invoke(messages)
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert bound.invoke([*messages, asked, result]).content == WEATHER_ANSWER


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output(chat: Chat, method: Any) -> None:
    assert chat().with_structured_output(City, method=method).invoke(CITY.question) == PARIS


def test_an_unknown_model(chat: Chat) -> None:
    with pytest.raises(ValueError, match=r"Available local models: .*demo:latest"):
        chat(model="nope")
