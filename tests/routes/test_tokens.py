"""/api/tokenize, /api/detokenize, and vLLM's own /tokenize and /detokenize."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.conftest import Alone, Engines
from tests.each import each
from tests.fake_engine import Silence, asked_twice, hang_up, refusal, whole

TOKENIZE, DETOKENIZE = "/api/tokenize", "/api/detokenize"
SAY = [{"role": "user", "content": "Hello!"}]


async def tokens_of(api: httpx.AsyncClient, **fields: Any) -> list[int]:
    response = await api.post(TOKENIZE, json={"model": "demo"} | fields)
    assert response.status_code == 200, response.text
    reply = response.json()
    assert list(reply) == ["model", "tokens", "count", "total_duration", "load_duration"]
    assert reply["count"] == len(reply["tokens"])
    assert reply["total_duration"] >= reply["load_duration"] > 0
    tokens: list[int] = reply["tokens"]
    return tokens


@pytest.mark.parametrize("text", ["Hello!", "", "Grüße,\n世界"])
async def test_there_and_back(api: httpx.AsyncClient, text: str) -> None:
    tokens = await tokens_of(api, content=text)
    reply = (await api.post(DETOKENIZE, json={"model": "Demo", "tokens": tokens, "keep_alive": "5m"})).json()
    assert list(reply) == ["model", "content", "total_duration", "load_duration"]
    assert (reply["model"], reply["content"]) == ("Demo", text)


async def test_other_names_for_the_text(api: httpx.AsyncClient) -> None:
    expected = await tokens_of(api, content="Hello!")
    for name in ("prompt", "text"):
        assert await tokens_of(api, **{name: "Hello!"}, content=None) == expected


async def test_special_tokens(api: httpx.AsyncClient) -> None:
    plain = await tokens_of(api, model="demo-embed", content="Hello!")
    special = await tokens_of(api, model="demo-embed", content="Hello!", add_special_tokens=True)
    assert (special[1:-1], len(special)) == (plain, len(plain) + 2)


@pytest.mark.parametrize("model", ["demo", "plain"])
async def test_a_conversation_has_the_tokens_that_a_chat_counts(api: httpx.AsyncClient, model: str) -> None:
    chat = {"model": model, "messages": SAY, "stream": False, "options": {"temperature": 0}}
    counted = (await api.post("/api/chat", json=chat)).json()["prompt_eval_count"]
    assert len(await tokens_of(api, model=model, messages=SAY)) == counted


async def test_vllms_own(api: httpx.AsyncClient, engines: Engines) -> None:
    body = {"model": "Demo", "prompt": "Hello!", "return_token_strs": True}
    there = (await api.post("/tokenize", json=body)).json()
    assert engines["demo"].last_body == body | {"model": "demo:latest"}
    assert (there["count"], len(there["token_strs"])) == (len(there["tokens"]), there["count"])
    back = (await api.post("/detokenize", json={"model": "demo", "tokens": there["tokens"]})).json()
    assert back == {"prompt": "Hello!"}


AMBIGUOUS = "one of content, prompt, text or messages is required"


@each(
    ("path", "fields", "status", "text"),
    [
        (TOKENIZE, {"model": None, "content": "x"}, 404, "model '' not found"),
        (TOKENIZE, {"model": "a b", "content": "x"}, 400, "invalid model name"),
        (TOKENIZE, {"model": "Nope", "content": "x"}, 404, "model 'Nope' not found"),
        (TOKENIZE, {}, 400, AMBIGUOUS),
        (TOKENIZE, {"messages": []}, 400, AMBIGUOUS),
        (TOKENIZE, {"content": "x", "prompt": "x"}, 400, AMBIGUOUS + ", not more"),
        (TOKENIZE, {"content": ["x"]}, 400, "invalid request: content: expected string, got array"),
        (TOKENIZE, {"content": "x", "keep_alive": "1d"}, 400, 'time: unknown unit "d" in duration "1d"'),
        (DETOKENIZE, {"model": "Nope", "tokens": [1]}, 404, "model 'Nope' not found"),
        (DETOKENIZE, {}, 400, "tokens is required"),
        (DETOKENIZE, {"tokens": ["x"]}, 400, "invalid request: tokens[0]: expected integer, got string"),
        (DETOKENIZE, {"tokens": [1, -1]}, 400, "invalid request: tokens[1]: expected integer >= 0"),
        (DETOKENIZE, {"tokens": [2**32]}, 400, "invalid request: tokens[0]: expected integer <= 4294967295"),
        ("/tokenize", {"model": "Nope", "prompt": "x"}, 404, "model 'Nope' not found"),
        ("/detokenize", {"model": 5}, 400, "model: expected string"),
    ],
)
async def test_refusals(alone: Alone, path: str, fields: dict[str, Any], status: int, text: str) -> None:
    response = await alone.api.post(path, content=json.dumps({"model": "demo"} | fields))
    assert (response.status_code, response.json()) == (status, {"error": text})
    assert alone.places == []


@pytest.mark.parametrize(
    ("path", "fields", "reply"),
    [(TOKENIZE, {"content": "x"}, {"count": 1, "tokens": [1]}), (DETOKENIZE, {"tokens": [1]}, {"prompt": "x"})],
)
async def test_keep_alive_and_clients_that_leave(
    alone: Alone, path: str, fields: dict[str, Any], reply: dict[str, Any]
) -> None:
    silence = Silence()
    alone.engine.script(whole(reply), silence)
    body = {"model": "demo"} | fields
    assert (await alone.api.post(path, json=body | {"keep_alive": "1h"})).status_code == 200
    assert not alone.place.stopped.is_set()
    asking = asyncio.create_task(alone.api.post(path, json=body | {"keep_alive": 0}))
    await asyncio.wait_for(silence.reached.wait(), 5)
    asking.cancel()
    await asyncio.wait_for(silence.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


@pytest.mark.parametrize(
    ("behaviour", "status", "text"),
    [
        (refusal(400, "odd"), 400, "odd"),
        (whole({"detail": "Not Found"}, 404), 400, '"demo" does not support tokenizing'),
        (hang_up, 500, "model runner has unexpectedly stopped"),
        (whole({"else": 1}), 500, "the engine's reply cannot be read: "),
    ],
)
async def test_faults_of_the_engine(alone: Alone, behaviour: Any, status: int, text: str) -> None:
    for path, fields in ((TOKENIZE, {"content": "x"}), (DETOKENIZE, {"tokens": [1]})):
        alone.engine.script(*asked_twice(behaviour))
        response = await alone.api.post(path, json={"model": "demo"} | fields)
        assert response.status_code == status
        assert response.json()["error"].startswith(text)


async def test_an_answer_that_has_begun_is_counted_as_it_is_gone_on_with(alone: Alone) -> None:
    alone.engine.script(whole({"count": 1, "max_model_len": 4096, "tokens": [1]}))
    messages = [*SAY, {"role": "assistant", "content": "Arr"}]
    assert (await alone.api.post(TOKENIZE, json={"model": "demo", "messages": messages})).status_code == 200
    asked = alone.engine.last_body
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
