"""Ollama's own client for JavaScript."""

import re
from typing import Any

import pytest

from tests.clients.npm import Node
from tests.clients.talk import HELLO, MODELS, PARIS, WEATHER_ANSWER, requests_finished, wait_idle
from tests.served import Served
from vllama.demo.dialogues import COMPLETIONS

pytestmark = [pytest.mark.engine, pytest.mark.clients, pytest.mark.timeout(300)]


def joined(messages: list[dict[str, Any]], key: str) -> str:
    return "".join(message.get(key, "") for message in messages)


def test_chat(node: Node) -> None:
    replies = node.run("chat")
    message = {"role": "assistant", "content": HELLO.answer, "thinking": HELLO.thinking}
    assert replies["whole"]["message"] == message
    *parts, last = replies["parts"]
    messages = [part["message"] for part in (*parts, last)]
    assert (joined(messages, "thinking"), joined(messages, "content")) == (HELLO.thinking, HELLO.answer)
    assert not any(part["done"] for part in parts)
    assert (last["done"], last["eval_count"]) == (True, replies["whole"]["eval_count"])


def test_tools(node: Node) -> None:
    replies = node.run("tools")
    (call,) = replies["asked"]["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}
    assert replies["told"]["message"]["content"] == WEATHER_ANSWER


def test_thinking(node: Node) -> None:
    messages = node.run("think")
    assert {message["content"] for message in messages.values()} == {HELLO.answer}
    thinking = {think: message.get("thinking") for think, message in messages.items()}
    assert thinking == {"true": HELLO.thinking, "false": None, "low": HELLO.thinking}


def test_structured_output(node: Node) -> None:
    assert node.run("format") == PARIS.model_dump()


def test_generate(node: Node) -> None:
    replies = node.run("generate")
    assert (replies["loaded"]["response"], replies["loaded"]["done_reason"]) == ("", "load")
    assert (replies["whole"]["thinking"], replies["whole"]["response"]) == (HELLO.thinking, HELLO.answer)
    assert replies["raw"]["response"] == COMPLETIONS[0].text
    assert joined(replies["parts"], "response") == HELLO.answer
    assert replies["parts"][-1]["done_reason"] == "stop"


def test_the_models(node: Node) -> None:
    replies = node.run("models")
    assert {model["name"] for model in replies["list"]["models"]} == MODELS
    assert replies["show"]["model_info"]["qwen3.context_length"] == 4096
    assert [model["name"] for model in replies["ps"]["models"]] == ["demo:latest"]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", replies["version"]["version"])


def test_errors(node: Node) -> None:
    assert node.run("errors") == {
        "unknown": [404, "model 'nope' not found"],
        "unknown in a stream": [404, "model 'nope' not found"],
        "no name": [400, "model is required"],
        "option": [500, 'option "top_k" must be of type integer'],
    }


def test_abort(demo: Served, node: Node) -> None:
    finished = requests_finished(demo)
    with node.running("abort") as output:
        assert output.readline() == "AbortError\n"
        wait_idle(demo, finished)
