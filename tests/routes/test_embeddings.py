"""/api/embed, /api/embeddings and /v1/embeddings."""

import asyncio
import base64
import json
import math
import struct
from array import array
from typing import Any

import httpx
import ollama
import pytest

from tests.conftest import Alone, Engines
from tests.each import each
from tests.fake_engine import Silence, asked_twice, hang_up, refusal, whole

EMBED, LEGACY, OPENAI = "/api/embed", "/api/embeddings", "/v1/embeddings"
PASTA, TRAIN = "How do I cook pasta?", "The train is late."
LONG = "train " * 600
"""More than the 512 tokens of demo-embed."""
DIED = "model runner has unexpectedly stopped"


async def embed(api: httpx.AsyncClient, value: Any, **fields: Any) -> dict[str, Any]:
    response = await api.post(EMBED, json={"model": "Demo-Embed", "input": value} | fields)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def error_text(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def floats(text: str) -> list[float]:
    """OpenAI's base64: little-endian, in single precision."""
    data = base64.b64decode(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def made_of(*vectors: list[float], tokens: int = 3) -> Any:
    """vLLM's reply, whatever it was asked to embed."""
    data = [
        {"index": index, "object": "embedding", "embedding": base64.b64encode(array("f", vector)).decode()}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {"id": "embd-1", "object": "list", "created": 1, "model": "theirs", "data": data, "usage": usage}


# What a real engine says


async def test_embed(api: httpx.AsyncClient) -> None:
    reply = await embed(api, [PASTA, "", TRAIN])
    assert list(reply) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    assert reply["model"] == "Demo-Embed"
    assert reply["total_duration"] >= reply["load_duration"] > 0
    assert all(math.hypot(*vector) == pytest.approx(1) for vector in reply["embeddings"])
    alone = await embed(api, TRAIN)
    assert alone["embeddings"] == [pytest.approx(reply["embeddings"][2], abs=1e-3)]
    assert reply["prompt_eval_count"] > alone["prompt_eval_count"] > 0
    assert array("f", reply["embeddings"][0]).tolist() == reply["embeddings"][0]


async def test_fields_that_change_nothing(api: httpx.AsyncClient, engines: Engines) -> None:
    fields: dict[str, Any] = {"options": {"num_ctx": 8, "temperature": None}, "keep_alive": "5m", "truncate": None}
    reply = await embed(api, TRAIN, dimensions=None, unknown=1, **fields)
    assert len(reply["embeddings"]) == 1
    assert engines["demo-embed"].last_body == {
        "model": "demo-embed:latest",
        "input": [TRAIN],
        "encoding_format": "base64",
        "truncate_prompt_tokens": -1,
    }


async def test_dimensions(api: httpx.AsyncClient) -> None:
    (every,) = (await embed(api, TRAIN))["embeddings"]
    (few,) = (await embed(api, TRAIN, dimensions=8))["embeddings"]
    assert math.hypot(*few) == pytest.approx(1)
    length = math.hypot(*every[:8])
    assert few == pytest.approx([number / length for number in every[:8]])
    for ignored in (0, -1, len(every), 10_000):
        assert (await embed(api, TRAIN, dimensions=ignored))["embeddings"] == [every]


async def test_what_is_too_long(api: httpx.AsyncClient) -> None:
    cut = await embed(api, [LONG])
    assert cut["prompt_eval_count"] == 512
    kept = await embed(api, [LONG + PASTA * 100])
    assert kept["embeddings"] == [pytest.approx(cut["embeddings"][0], abs=1e-3)]  # the beginning is what counts
    expected = "the input length exceeds the context length"
    for path, fields in ((EMBED, {"input": [TRAIN, LONG], "truncate": False}), (LEGACY, {"prompt": LONG})):
        refused = await api.post(path, json={"model": "demo-embed"} | fields)
        assert (refused.status_code, refused.json()) == (400, {"error": expected})
    served = await api.post(OPENAI, json={"model": "demo-embed", "input": LONG})
    assert served.json()["usage"] == {"prompt_tokens": 512, "total_tokens": 512}


async def test_the_older_form(api: httpx.AsyncClient) -> None:
    response = await api.post(LEGACY, json={"model": "DEMO-embed", "prompt": TRAIN, "options": {"seed": 1}})
    assert list(response.json()) == ["embedding"]
    assert response.json()["embedding"] == pytest.approx((await embed(api, TRAIN))["embeddings"][0], abs=1e-3)


@pytest.mark.parametrize(("value", "count"), [(PASTA, 1), ([PASTA, TRAIN], 2), ("", 1), ([""], 1)])
async def test_openai(api: httpx.AsyncClient, value: Any, count: int) -> None:
    body: dict[str, Any] = {"model": "Demo-Embed", "input": value}
    reply = (await api.post(OPENAI, json=body | {"user": "me", "encoding_format": ""})).json()
    assert list(reply) == ["object", "data", "model", "usage"]
    assert (reply["object"], reply["model"]) == ("list", "Demo-Embed")
    assert [list(entry) for entry in reply["data"]] == [["object", "embedding", "index"]] * count
    assert [(entry["object"], entry["index"]) for entry in reply["data"]] == [("embedding", i) for i in range(count)]
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] > 0
    packed = (await api.post(OPENAI, json=body | {"encoding_format": "BASE64"})).json()
    assert [floats(entry["embedding"]) for entry in packed["data"]] == [entry["embedding"] for entry in reply["data"]]


async def test_token_ids(api: httpx.AsyncClient) -> None:
    """Which vLLM takes and Ollama does not."""
    one = (await api.post(OPENAI, json={"model": "demo-embed", "input": [2, 43, 3]})).json()["data"]
    two = (await api.post(OPENAI, json={"model": "demo-embed", "input": [[2, 43, 3], [2, 44, 3]]})).json()["data"]
    assert (len(one), len(two)) == (1, 2)
    assert two[0]["embedding"] == pytest.approx(one[0]["embedding"], abs=1e-3)
    unknown = await api.post(OPENAI, json={"model": "demo-embed", "input": [600_000]})
    assert (unknown.status_code, error_text(unknown)) == (400, "Token id 600000 is out of vocabulary")


async def test_dimensions_of_openai(api: httpx.AsyncClient) -> None:
    body = {"model": "demo-embed", "input": TRAIN, "dimensions": 8, "encoding_format": "base64"}
    (entry,) = (await api.post(OPENAI, json=body)).json()["data"]
    assert floats(entry["embedding"]) == (await embed(api, TRAIN, dimensions=8))["embeddings"][0]


async def test_the_official_clients(gateway_url: str, engines: Engines) -> None:
    import openai  # here, as it takes a second

    async with ollama.AsyncClient(gateway_url) as client:
        both = await client.embed("demo-embed", [PASTA, TRAIN], keep_alive="5m", dimensions=8)
        assert [len(vector) for vector in both.embeddings] == [8, 8]
        assert (both.prompt_eval_count or 0) > 0
        assert len((await client.embeddings("demo-embed", TRAIN)).embedding) > 8
        with pytest.raises(ollama.ResponseError, match='model "nope" not found, try pulling it first'):
            await client.embed("nope", TRAIN)
    async with openai.AsyncOpenAI(base_url=f"{gateway_url}/v1", api_key="any", max_retries=0) as theirs:
        reply = await theirs.embeddings.create(model="demo-embed", input=[PASTA, TRAIN], dimensions=8)
        assert [entry.embedding for entry in reply.data] == [pytest.approx(vector) for vector in both.embeddings]


# Refusals

UNKNOWN = 'model "Nope" not found, try pulling it first'
INCAPABLE = '"Demo" does not support embeddings'
TEMPERATURE = 'option "temperature" must be of type float32'
REFUSED: list[tuple[str, Any, int, str]] = [
    (EMBED, b" ", 400, "missing request body"),
    (EMBED, b"null", 404, "model '' not found"),
    (EMBED, {"input": 5}, 404, "model '' not found"),
    (EMBED, {"model": " ", "input": "x"}, 404, "model '' not found"),
    (EMBED, {"model": "Nope", "input": 5}, 400, "invalid input type"),
    (EMBED, {"model": "Nope", "input": {}}, 400, "invalid input type"),
    (EMBED, {"model": "Nope", "input": True}, 400, "invalid input type"),
    (EMBED, {"model": "Nope", "input": ["x", 5]}, 400, "invalid input type"),
    (EMBED, {"model": "Nope", "input": ["x", None]}, 400, "invalid input type"),
    (EMBED, {"model": "a b", "input": "x"}, 400, "invalid model name"),
    (EMBED, {"model": "Nope", "input": "x"}, 404, UNKNOWN),
    (EMBED, {"model": "Nope", "input": "x", "options": {"temperature": "hot"}}, 404, UNKNOWN),
    (EMBED, {"model": "Demo", "input": "x"}, 400, INCAPABLE),
    (EMBED, {"model": "Demo"}, 400, INCAPABLE),
    (EMBED, {"model": "demo-embed", "options": {"temperature": "hot"}}, 500, TEMPERATURE),
    (EMBED, {"model": "demo-embed", "input": "x", "options": {"temperature": "hot"}}, 500, TEMPERATURE),
    (EMBED, {"model": "demo-embed", "keep_alive": "1d"}, 400, 'time: unknown unit "d" in duration "1d"'),
    (
        EMBED,
        {"model": "demo-embed", "dimensions": "8"},
        400,
        "invalid request: dimensions: expected integer, got string",
    ),
    (EMBED, {"model": "demo-embed", "truncate": 1}, 400, "invalid request: truncate: expected boolean, got integer"),
    (LEGACY, b"", 400, "missing request body"),
    (LEGACY, {"prompt": "x"}, 400, "model is required"),
    (LEGACY, {"model": "a b", "prompt": "x"}, 400, "invalid model name"),
    (LEGACY, {"model": "Nope", "prompt": "x"}, 404, UNKNOWN),
    (LEGACY, {"model": "Demo", "prompt": "x"}, 400, INCAPABLE),
    (LEGACY, {"model": "demo-embed", "prompt": 5}, 400, "invalid request: prompt: expected string, got integer"),
    (LEGACY, {"model": "demo-embed", "prompt": "x", "options": {"temperature": "hot"}}, 500, TEMPERATURE),
    (LEGACY, {"model": "demo-embed", "keep_alive": True}, 400, "Unsupported type: 'bool'"),
    (OPENAI, b"", 400, "EOF"),
    (OPENAI, {"input": None}, 400, "invalid input"),
    (OPENAI, {"model": "Nope"}, 400, "invalid input"),
    (OPENAI, {"model": "Nope", "input": []}, 400, "invalid input"),
    (OPENAI, {"model": None, "input": ""}, 404, "model '' not found"),
    (OPENAI, {"model": "Nope", "input": 5}, 400, "invalid input type"),
    (OPENAI, {"model": "Nope", "input": ["x", 5]}, 400, "invalid input type"),
    (OPENAI, {"model": "Nope", "input": [[]]}, 400, "invalid input type"),
    (OPENAI, {"model": "a b", "input": "x"}, 400, "invalid model name"),
    (OPENAI, {"model": "Nope", "input": "x"}, 404, UNKNOWN),
    (OPENAI, {"model": "Demo", "input": "x"}, 400, INCAPABLE),
    (
        OPENAI,
        {"encoding_format": "Hex"},
        400,
        "Invalid value for 'encoding_format' = Hex. Supported values: ['float', 'base64'].",
    ),
]


@each(("path", "body", "status", "text"), REFUSED)
async def test_refusals(alone: Alone, path: str, body: Any, status: int, text: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await alone.api.post(path, content=content)
    assert (response.status_code, error_text(response)) == (status, text)
    assert alone.places == []  # said before a model is loaded for it
    if path == OPENAI:
        assert list(response.json()["error"]) == ["message", "type", "param", "code"]


# Loading and unloading


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        (EMBED, {}, {"model": "Demo-Embed", "embeddings": []}),
        (EMBED, {"input": ""}, {"model": "Demo-Embed", "embeddings": []}),
        (EMBED, {"input": []}, {"model": "Demo-Embed", "embeddings": []}),
        (EMBED, {"input": None}, {"model": "Demo-Embed", "embeddings": []}),
        (LEGACY, {}, {"embedding": []}),
        (LEGACY, {"prompt": ""}, {"embedding": []}),
    ],
)
async def test_an_empty_request_loads_and_keep_alive_0_unloads(
    alone: Alone, path: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    body = {"model": "Demo-Embed"} | fields
    assert (await alone.api.post(path, json=body | {"keep_alive": "1h"})).json() == expected
    assert (await alone.api.get("/health")).json()["loaded"] == ["demo-embed:latest"]
    for _ in range(2):  # the second one finds nothing loaded
        assert (await alone.api.post(path, json=body | {"keep_alive": 0})).json() == expected
        await asyncio.wait_for(alone.place.stopped.wait(), 5)
    assert (len(alone.places), alone.engine.asked) == (1, [])


@pytest.mark.parametrize(("path", "fields"), [(EMBED, {"input": "x"}), (LEGACY, {"prompt": "x"})])
async def test_keep_alive(alone: Alone, path: str, fields: dict[str, Any]) -> None:
    alone.engine.script(whole(made_of([1.0])), whole(made_of([1.0])))
    body = {"model": "demo-embed"} | fields
    assert (await alone.api.post(path, json=body | {"keep_alive": -1})).status_code == 200
    assert not alone.place.stopped.is_set()
    assert (await alone.api.post(path, json=body | {"keep_alive": 0})).status_code == 200
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


# What no real engine shows on demand


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
async def test_vectors_that_are_none(alone: Alone, number: float) -> None:
    for path, fields in ((EMBED, {"input": "x"}), (LEGACY, {"prompt": "x"}), (OPENAI, {"input": "x"})):
        alone.engine.script(whole(made_of([1.0, number])))
        response = await alone.api.post(path, json={"model": "demo-embed", "dimensions": 1} | fields)
        assert (response.status_code, error_text(response)) == (400, "embedding contains NaN or Inf values")


async def test_vectors_are_put_in_order_and_to_length_1(alone: Alone) -> None:
    reply = made_of([3.0, 4.0], [0.0, 0.0])
    reply["data"].reverse()
    alone.engine.script(whole(reply), whole(made_of([3.0, 4.0])))
    embedded = await embed(alone.api, ["x", "y"])
    assert embedded["embeddings"] == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]
    older = await alone.api.post(LEGACY, json={"model": "demo-embed", "prompt": "x"})
    assert older.json() == {"embedding": [3.0, 4.0]}  # left as the engine made it


async def test_a_server_that_knows_no_base64(alone: Alone) -> None:
    alone.engine.script(whole({"data": [{"index": 0, "embedding": [3, 4.0]}], "usage": {"prompt_tokens": 1}}))
    assert (await embed(alone.api, "x"))["embeddings"] == [pytest.approx([0.6, 0.8])]


async def test_many_inputs_are_one_request_to_the_engine(alone: Alone) -> None:
    numbers = [float(number) for number in range(1, 10_001)]
    alone.engine.script(whole(made_of(*([number, 0.0] for number in numbers), tokens=20_000)))
    reply = await embed(alone.api, [str(number) for number in numbers])
    assert reply["embeddings"] == [[1.0, 0.0]] * 10_000
    assert reply["prompt_eval_count"] == 20_000
    assert len(alone.engine.asked) == 1


@pytest.mark.parametrize(
    ("behaviour", "status", "text"),
    [
        (refusal(503, "full"), 503, "server busy, please try again.  maximum pending requests exceeded"),
        (refusal(400, "odd"), 400, "odd"),
        (refusal(500, "EngineCore died."), 500, "an error was encountered while running the model: EngineCore died."),
        (whole({"detail": "Not Found"}, 404), 400, '"demo-embed" does not support embeddings'),
        (refusal(404, "The model `x` does not exist."), 404, "model 'demo-embed' not found"),
        (hang_up, 500, DIED),
        (whole(b"<html>"), 500, "the engine's reply cannot be read: "),
        (whole({"data": []}), 500, "the engine's reply cannot be read: "),
        (whole(made_of([1.0], [2.0])), 500, "the engine made 2 embeddings of 1 inputs"),
    ],
)
async def test_faults_of_the_engine(alone: Alone, behaviour: Any, status: int, text: str) -> None:
    for path, fields in ((EMBED, {"input": "x"}), (LEGACY, {"prompt": "x"}), (OPENAI, {"input": "x"})):
        alone.engine.script(*asked_twice(behaviour))
        response = await alone.api.post(path, json={"model": "demo-embed"} | fields)
        assert response.status_code == status
        assert error_text(response).startswith(text)


@pytest.mark.parametrize(
    ("path", "fields"), [(EMBED, {"input": "x"}), (LEGACY, {"prompt": "x"}), (OPENAI, {"input": "x"})]
)
async def test_leaving_before_the_answer_aborts_it(alone: Alone, path: str, fields: dict[str, Any]) -> None:
    silence = Silence()
    alone.engine.script(silence)
    asking = asyncio.create_task(alone.api.post(path, json={"model": "demo-embed"} | fields))
    await asyncio.wait_for(silence.reached.wait(), 5)
    asking.cancel()
    await asyncio.wait_for(silence.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)


async def test_leaving_while_the_model_loads(alone: Alone) -> None:
    alone.next_place["held"] = True
    asking = asyncio.create_task(alone.api.post(EMBED, json={"model": "demo-embed", "input": "x"}))
    while not alone.places:
        await asyncio.sleep(0.001)
    asking.cancel()
    while alone.scheduler._waiters:
        await asyncio.sleep(0.001)
    alone.place.may_start.set()
    await asyncio.wait_for(alone.place.stopped.wait(), 5)
    assert alone.engine.asked == []
