"""Long histories and small contexts: what is left out, what is refused, and what it costs."""

import json
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.conftest import Alone, Engines
from tests.fake_engine import FakeEngine, Stream, chat_events, whole
from tests.routes.test_inference import GREEDY
from vllama.demo.dialogues import by_name
from vllama.models.model import Model
from vllama.routes._engine import Line
from vllama.routes._prompt import prepare
from vllama.translate.failure import CONTEXT_EXCEEDED
from vllama.translate.request import Target, chat_request
from vllama.wire.ollama import ChatRequest, Message

CONTEXT = 4096


def words(count: int, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": " ".join(["word"] * count)}


@pytest.fixture
def counting(alone: Alone) -> FakeEngine:
    """The engine takes words for tokens."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = alone.engine.last_body
        if request.path != "/tokenize":
            return await Stream(*chat_events("Hi"))(request)
        texts = [message["content"] for message in body["messages"]] if "messages" in body else [body["prompt"]]
        count = sum(len(text.split()) for text in texts)
        return await whole({"count": count, "max_model_len": CONTEXT, "tokens": [1] * count})(request)

    alone.engine.answer = answer
    return alone.engine


def asked_messages(engine: FakeEngine) -> list[tuple[str, int]]:
    return [(message["role"], len(message["content"].split())) for message in engine.last_body["messages"]]


async def test_what_fits_for_sure_is_not_counted(alone: Alone, counting: FakeEngine) -> None:
    await alone.api.post("/api/chat", json={"model": "demo", "messages": [words(100)]})
    assert [asked.path for asked in counting.asked] == ["/v1/chat/completions"]
    assert counting.last_body["max_tokens"] == CONTEXT


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ([1000, 1000, 1000], [1000, 1000, 1000]),
        ([1000, 1000, 1000, 1000], [1000, 1000, 1000]),
        ([3000, 3000, 1000], [1000]),
        ([3000, 3], [3000, 3]),
        ([3070, 3], [3]),
        ([2, 3900], [3900]),
        ([*[10] * 500], [10] * 307),
    ],
)
async def test_the_oldest_messages_go(alone: Alone, counting: FakeEngine, sizes: list[int], kept: list[int]) -> None:
    """The context is 4096; a quarter of it is kept for the reply."""
    response = await alone.api.post("/api/chat", json={"model": "demo", "messages": [words(size) for size in sizes]})
    assert response.status_code == 200
    assert asked_messages(counting) == [("user", size) for size in kept]
    assert len(counting.asked) <= 14, "it is searched, not tried one by one"


async def test_system_messages_stay(alone: Alone, counting: FakeEngine) -> None:
    messages = [words(10, "system"), words(3000), words(3, "assistant"), words(20, "system"), words(2000)]
    await alone.api.post("/api/chat", json={"model": "demo", "messages": messages})
    assert asked_messages(counting) == [("system", 10), ("assistant", 3), ("system", 20), ("user", 2000)]


async def test_less_room_is_kept_where_less_is_wanted(alone: Alone, counting: FakeEngine) -> None:
    body = {"model": "demo", "messages": [words(100), words(3900)], "options": {"num_predict": 50}}
    await alone.api.post("/api/chat", json=body)
    assert asked_messages(counting) == [("user", 100), ("user", 3900)]
    assert counting.last_body["max_tokens"] == 50


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"messages": [words(3000), words(2000)], "truncate": False}, 400),
        ({"messages": [words(5000)]}, 400),
        ({"messages": [words(10, "system"), words(4090)]}, 400),
        ({"messages": [words(2000), words(1900)], "truncate": False}, 200),
    ],
)
async def test_what_cannot_be_shortened(
    alone: Alone, counting: FakeEngine, fields: dict[str, Any], status: int
) -> None:
    response = await alone.api.post("/api/chat", json={"model": "demo"} | fields)
    assert response.status_code == status
    if status == 400:
        assert response.json() == {"error": CONTEXT_EXCEEDED}
        assert all(asked.path == "/tokenize" for asked in counting.asked)


@pytest.mark.parametrize(
    ("options", "counted", "most"),
    [
        ({"num_ctx": 1000}, True, 900),
        ({"num_ctx": 1000, "num_predict": 50}, True, 50),
        ({"num_ctx": 1000, "num_predict": 5000}, True, 900),
        ({"num_ctx": 3000, "num_predict": 50}, False, 50),
        ({"num_ctx": 100_000}, False, CONTEXT),
        ({"num_ctx": 0}, False, CONTEXT),
    ],
)
async def test_num_ctx_is_a_cap(
    alone: Alone, counting: FakeEngine, options: dict[str, Any], counted: bool, most: int
) -> None:
    await alone.api.post("/api/chat", json={"model": "demo", "messages": [words(100)], "options": options})
    assert counting.last_body["max_tokens"] == most
    assert ("/tokenize" in [asked.path for asked in counting.asked]) is counted
    assert len(alone.places) == 1, "nothing is started anew for it"


async def test_num_ctx_shortens(alone: Alone, counting: FakeEngine) -> None:
    body = {"model": "demo", "messages": [words(50), words(60)], "options": {"num_ctx": 100}}
    await alone.api.post("/api/chat", json=body)
    assert asked_messages(counting) == [("user", 60)]
    assert counting.last_body["max_tokens"] == 40


async def test_an_image_counts_though_it_is_not_tokenized(
    alone: Alone, counting: FakeEngine, models: dict[str, Model]
) -> None:
    """Not over HTTP, as the demo model refuses images."""
    history = [Message("user", "one two", images=["iVBORw0KGgo="] * 5), Message("user", "three")]
    async with alone.scheduler.acquire(models["demo"]) as lease:
        prepared = await prepare(Line(alone.gateway, lease), chat_request(ChatRequest(messages=history), Target()))
    assert [message["content"] for message in prepared.body["messages"]] == ["three"]
    assert counting.asked[-1].body["messages"] == [{"role": "user", "content": "three"}]


async def test_raw_prompts_keep_their_end(alone: Alone, counting: FakeEngine) -> None:
    prompt = " ".join(["word"] * 5000)
    await alone.api.post("/api/generate", json={"model": "demo", "prompt": prompt, "raw": True})
    sent = counting.last_body
    assert (sent["truncate_prompt_tokens"], sent["truncation_side"]) == (3072, "left")
    refused = await alone.api.post(
        "/api/generate", json={"model": "demo", "prompt": prompt, "raw": True, "truncate": False}
    )
    assert (refused.status_code, refused.json()) == (400, {"error": CONTEXT_EXCEEDED})


# The real engine


async def test_a_long_history_on_a_real_engine(api: httpx.AsyncClient, engines: Engines) -> None:
    """The model knows what to answer to the last messages, once the noise before them is gone."""
    asked = by_name("recall-ada")
    noise = [{"role": role, "content": "la " * 3000} for role in ("user", "assistant") * 2]
    body = {"model": "demo", "messages": [*noise, *asked.messages], "options": GREEDY, "think": False, "stream": False}
    reply = (await api.post("/api/chat", json=body)).json()
    assert reply["message"]["content"] == asked.answer
    assert reply["prompt_eval_count"] <= 3072
    assert engines["demo"].last_body["messages"][-3:] == list(asked.messages)


async def test_a_small_context_on_a_real_engine(api: httpx.AsyncClient) -> None:
    song = by_name("song")
    body = {"model": "demo", "prompt": song.question, "think": False, "options": GREEDY | {"num_ctx": 64}}
    lines = [json.loads(line) for line in (await api.post("/api/generate", json=body)).text.splitlines()]
    assert lines[-1]["done_reason"] == "length"
    assert lines[-1]["prompt_eval_count"] + lines[-1]["eval_count"] == 64


async def test_a_raw_prompt_too_long_for_a_real_engine(api: httpx.AsyncClient) -> None:
    body = {"model": "demo", "prompt": "la " * 5000 + "The capital of France is", "raw": True, "stream": False}
    reply = (await api.post("/api/generate", json=body | {"options": GREEDY | {"num_predict": 3}})).json()
    assert reply["prompt_eval_count"] == 4096 - 3
