"""The command line `llm` with its plugin for Ollama."""

import json

import pytest

from tests.clients.talk import CITY, HELLO, PARIS, WEATHER, WEATHER_ANSWER, Llm

pytestmark = [pytest.mark.engine, pytest.mark.clients, pytest.mark.timeout(300)]

ASK = ("-m", "ollama/demo", "-o", "temperature", "0")
PROGRAM = """
def get_weather(city: str) -> str:
    "Get the current weather of a city."
    return '{"temperature": 18, "condition": "sunny"}'
"""


def test_the_models(llm: Llm) -> None:
    assert "ollama/demo:latest (aliases: ollama/demo)" in llm("models")
    rows = [line.split(maxsplit=2) for line in llm("ollama", "models").splitlines()]
    capabilities = {row[0]: row[2].strip() for row in rows}
    assert capabilities["demo:latest"] == "completion, thinking, tools"
    assert capabilities["demo-embed:latest"] == "embedding"


@pytest.mark.parametrize(
    "more", [(), ("--no-stream",), ("-o", "think", "false")], ids=["stream", "whole", "no thought"]
)
def test_a_prompt(llm: Llm, more: tuple[str, ...]) -> None:
    assert llm(*ASK, *more, HELLO.question) == HELLO.answer


def test_a_conversation(llm: Llm) -> None:
    assert llm(*ASK, "My name is Ada.") == "Nice to meet you, Ada!"
    assert llm("-c", "-o", "temperature", "0", "What is my name?") == "Your name is Ada."


def test_structured_output(llm: Llm) -> None:
    assert json.loads(llm(*ASK, "--schema", "city, country", CITY.question)) == PARIS.model_dump()


def test_tools(llm: Llm) -> None:
    assert llm(*ASK, "--functions", PROGRAM, WEATHER.question) == WEATHER_ANSWER
