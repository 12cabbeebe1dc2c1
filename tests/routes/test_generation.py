"""What generate and chat can beyond plain answers, against what a real engine said."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.conftest import Alone
from tests.fake_engine import Stream, chat_events, refusal
from tests.routes.test_inference import GREEDY, METRICS, chat_body, generate_body, lines_of
from vllama.demo.dialogues import COMPLETIONS, by_name

HELLO = by_name("hello")
SHORT = GREEDY | {"num_predict": 4}


async def objects_of(api: httpx.AsyncClient, path: str, body: dict[str, Any], *, stream: bool) -> list[dict[str, Any]]:
    response = await api.post(path, json=body | {"stream": stream})
    assert response.status_code == 200, response.text
    return lines_of(response) if stream else [response.json()]


def text_of(objects: list[dict[str, Any]]) -> str:
    return "".join(one["message"]["content"] if "message" in one else one["response"] for one in objects)


def thinking_of(objects: list[dict[str, Any]]) -> str:
    return "".join(one.get("message", one).get("thinking", "") for one in objects)


# Logprobs


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_logprobs(api: httpx.AsyncClient, path: str, stream: bool) -> None:
    body = (chat_body if path == "/api/chat" else generate_body)("hello", logprobs=True, top_logprobs=2, options=SHORT)
    objects = await objects_of(api, path, body, stream=stream)
    entries = [entry for one in objects for entry in one.get("logprobs", [])]
    assert [list(entry) for entry in entries] == 4 * [["token", "logprob", "bytes", "top_logprobs"]]
    for entry in entries:
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert [list(other) for other in entry["top_logprobs"]] == 2 * [["token", "logprob", "bytes"]]
        likeliest, second = (other["logprob"] for other in entry["top_logprobs"])
        assert likeliest >= second
        assert entry["top_logprobs"][0]["token"] == entry["token"], "the temperature is 0"
    if not stream:
        keys = list(objects[0])
        before_metrics = keys.index("logprobs") < keys.index("total_duration")
        assert before_metrics is (path == "/api/chat")


async def test_logprobs_of_a_raw_prompt(api: httpx.AsyncClient) -> None:
    body = {"model": "demo", "raw": True, "prompt": COMPLETIONS[1].prompt, "options": SHORT, "logprobs": True}
    (one,) = await objects_of(api, "/api/generate", body, stream=False)
    assert "".join(entry["token"] for entry in one["logprobs"]) == one["response"]
    assert all(list(entry) == ["token", "logprob", "bytes"] for entry in one["logprobs"])


# Context


@pytest.mark.parametrize("stream", [True, False])
async def test_a_context_is_gone_on_from(api: httpx.AsyncClient, stream: bool) -> None:
    """The model knows by heart what to answer to a name's question, after it was told the name."""
    told, asked = by_name("name-ada"), by_name("recall-ada")
    body = {"model": "demo", "options": GREEDY, "think": False}
    first = await objects_of(api, "/api/generate", body | {"prompt": told.question}, stream=stream)
    assert text_of(first) == told.answer
    keys = list(first[-1])
    assert keys.index("done_reason") < keys.index("context") < keys.index("total_duration")
    context = first[-1]["context"]
    assert all(isinstance(token, int) for token in context)
    question = asked.messages[-1]["content"]
    second = await objects_of(api, "/api/generate", body | {"prompt": question, "context": context}, stream=stream)
    assert text_of(second) == asked.answer
    assert thinking_of(second) == ""
    assert second[-1]["context"][: len(context)] == context
    assert len(second[-1]["context"]) > len(context)
    assert METRICS[0] in second[-1]


@pytest.mark.parametrize("stream", [True, False])
async def test_thinking_after_a_context(api: httpx.AsyncClient, stream: bool) -> None:
    body = generate_body("hello", think=False)
    context = (await objects_of(api, "/api/generate", body, stream=False))[0]["context"]
    objects = await objects_of(
        api, "/api/generate", generate_body("thanks", context=context, logprobs=True), stream=stream
    )
    assert (thinking_of(objects), text_of(objects)) == (by_name("thanks").thinking, by_name("thanks").answer)
    assert any("logprobs" in one for one in objects)


async def test_raw_prompts_have_no_context(api: httpx.AsyncClient) -> None:
    body = {"model": "demo", "raw": True, "prompt": COMPLETIONS[1].prompt, "options": SHORT}
    (one,) = await objects_of(api, "/api/generate", body, stream=False)
    assert "context" not in one


async def test_a_context_of_no_tokens(api: httpx.AsyncClient) -> None:
    response = await api.post("/api/generate", json=generate_body("hello", context=[10**6], stream=False))
    assert response.status_code == 400
    assert "token" in response.json()["error"].lower()


# Rendering


async def test_a_prompt_is_rendered_only(api: httpx.AsyncClient) -> None:
    reply = await api.post("/api/chat", json=chat_body("hello", think=False, _debug_render_only=True))
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert list(reply.json()) == ["model", "created_at", "message", "done", "_debug_info"]
    assert (reply.json()["message"], reply.json()["done"]) == ({"role": "", "content": ""}, False)
    assert reply.json()["_debug_info"] == {
        "rendered_template": "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    }


async def test_a_raw_prompt_is_rendered_as_it_is(api: httpx.AsyncClient) -> None:
    body = {"model": "demo", "raw": True, "prompt": "As it is", "_debug_render_only": True}
    reply = (await api.post("/api/generate", json=body)).json()
    assert list(reply) == ["model", "created_at", "response", "done", "_debug_info"]
    assert reply["_debug_info"] == {"rendered_template": "As it is"}


async def test_a_template_needs_the_servers_trust(api: httpx.AsyncClient) -> None:
    body = generate_body("hello", template="{{ messages[0].content }}", stream=False)
    response = await api.post("/api/generate", json=body)
    assert response.status_code == 400
    assert "--trust-request-chat-template" in response.json()["error"]


# Constraints, choices, budgets


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("structured", "pattern"),
    [({"choice": ["yes", "no"]}, "yes|no"), ({"regex": "[0-9]{3}"}, "[0-9]{3}"), ({"grammar": 'root ::= "ab"'}, "ab")],
)
async def test_structured_outputs(api: httpx.AsyncClient, structured: Any, pattern: str, stream: bool) -> None:
    body = chat_body("hello", think=False, structured_outputs=structured)
    assert re.fullmatch(pattern, text_of(await objects_of(api, "/api/chat", body, stream=stream)))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_schema_binds_the_answer_and_not_the_thinking(api: httpx.AsyncClient, stream: bool) -> None:
    dialogue = by_name("json-city")
    objects = await objects_of(api, "/api/chat", chat_body("json-city", format=dialogue.schema), stream=stream)
    assert thinking_of(objects) == dialogue.thinking
    assert json.loads(text_of(objects)) == json.loads(dialogue.answer)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"format": {"type": "object", "properties": {"a": {"type": "nonsense"}}}}, "nonsense"),
        ({"structured_outputs": {"regex": "[0-9"}}, "regex"),
    ],
)
async def test_an_impossible_constraint_is_refused(
    api: httpx.AsyncClient, path: str, fields: dict[str, Any], word: str
) -> None:
    body = (chat_body if path == "/api/chat" else generate_body)("hello", **fields)
    for stream in (True, False):
        response = await api.post(path, json=body | {"stream": stream})
        assert response.status_code == 400
        assert word in response.json()["error"]


@pytest.mark.parametrize("stream", [True, False])
async def test_tool_choice(api: httpx.AsyncClient, stream: bool) -> None:
    """A model that would rather talk has to call; and one that would call has to talk."""
    tools = list(by_name("weather-paris").tools)
    required = chat_body("weather-paris", tool_choice="required", think=False)
    objects = await objects_of(api, "/api/chat", required, stream=stream)
    calls = [call for one in objects for call in one["message"].get("tool_calls", [])]
    assert [call["function"]["name"] for call in calls][:1] == ["get_weather"]
    assert objects[-1]["done_reason"] == "stop"
    none = chat_body("weather-paris", tools=tools, tool_choice="none", think=False, options=SHORT)
    assert not any("tool_calls" in one["message"] for one in await objects_of(api, "/api/chat", none, stream=stream))


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_has_begun_is_gone_on_with(api: httpx.AsyncClient, stream: bool) -> None:
    answer = by_name("thanks").answer
    body = chat_body("thanks")
    body["messages"] = [*body["messages"], {"role": "assistant", "content": answer[:7]}]
    objects = await objects_of(api, "/api/chat", body, stream=stream)
    assert (text_of(objects), thinking_of(objects)) == (answer[7:], "")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_budget_for_thinking(api: httpx.AsyncClient, stream: bool) -> None:
    objects = await objects_of(api, "/api/chat", chat_body("hello", thinking_token_budget=3), stream=stream)
    thinking = thinking_of(objects)
    assert len(thinking) < len(HELLO.thinking)
    assert HELLO.thinking.startswith(thinking)
    assert text_of(objects) == HELLO.answer


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_the_budget_cuts_off(api: httpx.AsyncClient, stream: bool) -> None:
    options = GREEDY | {"num_predict": 14}
    objects = await objects_of(
        api, "/api/chat", chat_body("weather-paris", think=False, options=options), stream=stream
    )
    assert (text_of(objects), objects[-1]["done_reason"]) == ("", "length")
    assert not any("tool_calls" in one["message"] for one in objects)


async def test_priorities_are_handed_on(alone: Alone) -> None:
    alone.engine.script(Stream(*chat_events("Hi")))
    await alone.api.post("/api/chat", json=chat_body("hello", priority=-5))
    assert alone.engine.last_body["priority"] == -5


async def test_multi_byte_characters_that_tokens_split(api: httpx.AsyncClient) -> None:
    dialogue = by_name("languages")
    objects = await objects_of(api, "/api/chat", chat_body("languages", think=False), stream=True)
    assert text_of(objects) == dialogue.answer
    assert len(objects) > 10
    assert "\ufffd" not in "".join(one["message"]["content"] for one in objects)


async def test_an_option_that_means_nothing_here_is_logged_once(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    options = GREEDY | {"typical_p": 0.3, "mirostat": 2, "num_gpu": 99}
    with caplog.at_level("INFO", "vllama"):
        for _ in range(2):
            await api.post("/api/chat", json=chat_body("thanks", think=False, stream=False, options=options))
    assert [record.message for record in caplog.records if "ignored" in record.message] == [
        "the option typical_p (0.3) is ignored, here and from now on: vLLM has nothing like it"
    ]


async def test_an_engine_that_tells_no_tokens(alone: Alone) -> None:
    """A server that is no vLLM: what needs its tokenizer says so, what can do without does."""
    missing = refusal(404, "Not Found", "NotFoundError")
    alone.engine.script(missing)
    refused = await alone.api.post("/api/chat", json=chat_body("hello", _debug_render_only=True))
    assert (refused.status_code, refused.json()) == (
        400, {"error": "the engine has no /tokenize, which context and _debug_render_only need: leave them out"},
    )  # fmt: skip
    alone.engine.script(missing, Stream(*chat_events("Hi")))
    lines = lines_of(await alone.api.post("/api/chat", json=chat_body("hello", options={"num_ctx": 100})))
    assert text_of(lines) == "Hi"
    assert alone.engine.last_body["max_tokens"] == 100
