"""Rerankings and scores: by demo-embed, as cosines of its vectors."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.conftest import Alone, Engines
from tests.each import each
from tests.fake_engine import Silence, refusal, whole

RERANK, SCORE = "/api/rerank", "/api/score"
PASTA, TRAIN = "How do I cook pasta?", "The train is late."
DOCUMENTS = [TRAIN, PASTA]


@pytest.mark.parametrize("path", [RERANK, "/rerank", "/v1/rerank", "/v2/rerank"])
async def test_rerank(api: httpx.AsyncClient, path: str) -> None:
    body = {"model": "Demo-Embed", "query": PASTA, "documents": [TRAIN, {"text": PASTA}]}
    reply = (await api.post(path, json=body)).json()
    assert reply["model"] == "Demo-Embed"
    assert [ranked["index"] for ranked in reply["results"]] == [1, 0]
    assert [ranked["document"]["text"] for ranked in reply["results"]] == [PASTA, TRAIN]
    best, other = (ranked["relevance_score"] for ranked in reply["results"])
    assert best == pytest.approx(1, abs=1e-2)
    assert other < best
    assert reply["usage"]["total_tokens"] > 0


async def test_top_n_without_documents(api: httpx.AsyncClient, engines: Engines) -> None:
    body = {"model": "demo-embed", "query": PASTA, "documents": DOCUMENTS, "top_n": 1, "return_documents": False}
    (ranked,) = (await api.post(RERANK, json=body | {"keep_alive": "5m"})).json()["results"]
    assert (ranked["index"], list(ranked)) == (1, ["index", "relevance_score"])
    assert engines["demo-embed"].last_body == {
        "model": "demo-embed:latest",
        "query": PASTA,
        "documents": DOCUMENTS,
        "top_n": 1,
        "truncate_prompt_tokens": -1,
    }


async def test_documents_that_are_too_long(api: httpx.AsyncClient) -> None:
    body = {"model": "demo-embed", "query": PASTA, "documents": ["train " * 600]}
    assert len((await api.post(RERANK, json=body)).json()["results"]) == 1


@pytest.mark.parametrize("path", [SCORE, "/score", "/v1/score"])
async def test_score(api: httpx.AsyncClient, path: str) -> None:
    reply = (await api.post(path, json={"model": "Demo-Embed", "text_1": PASTA, "text_2": DOCUMENTS})).json()
    assert reply["model"] == "Demo-Embed"
    assert [entry["index"] for entry in reply["data"]] == [0, 1]
    assert reply["data"][1]["score"] == pytest.approx(1, abs=1e-2)
    assert reply["data"][0]["score"] < reply["data"][1]["score"]


async def test_other_names_for_pairs(api: httpx.AsyncClient) -> None:
    pairs = {"queries": [{"text": PASTA}, TRAIN], "documents": DOCUMENTS}
    reply = (await api.post(SCORE, json={"model": "demo-embed"} | pairs)).json()
    assert len(reply["data"]) == 2
    uneven = await api.post(SCORE, json={"model": "demo-embed", "text_1": DOCUMENTS, "text_2": [*DOCUMENTS, PASTA]})
    assert (uneven.status_code, uneven.json()) == (400, {"error": "Input lengths must be either 1:1, 1:N or N:N"})


PAIRS = "text_1 and text_2, or queries and documents, are required"
NO_TEXT = "expected string, or an object with text"


@each(
    ("path", "fields", "status", "text"),
    [
        (RERANK, {"model": None}, 404, "model '' not found"),
        (RERANK, {"model": "a b"}, 400, "invalid model name"),
        (RERANK, {"model": "Nope"}, 404, "model 'Nope' not found"),
        (RERANK, {"model": "Demo"}, 400, '"Demo" does not support reranking'),
        (RERANK, {"documents": ["x"]}, 400, "query is required"),
        (RERANK, {"query": 5, "documents": ["x"]}, 400, f"query: {NO_TEXT}"),
        (RERANK, {"query": "x"}, 400, "documents is required"),
        (RERANK, {"query": "x", "documents": []}, 400, "documents is required"),
        (RERANK, {"query": "x", "documents": "x"}, 400, "invalid request: documents: expected array, got string"),
        (RERANK, {"query": "x", "documents": ["x", {"title": "x"}]}, 400, f"documents[1]: {NO_TEXT}"),
        (RERANK, {"top_n": -1}, 400, "invalid request: top_n: expected integer >= 0"),
        (RERANK, {"keep_alive": []}, 400, "Unsupported type: '[]interface {}'"),
        (SCORE, {"model": "Nope"}, 404, "model 'Nope' not found"),
        (SCORE, {"model": "Demo"}, 400, '"Demo" does not support scoring'),
        (SCORE, {}, 400, PAIRS),
        (SCORE, {"text_1": "x"}, 400, PAIRS),
        (SCORE, {"text_1": "x", "documents": "x"}, 400, PAIRS),
        (SCORE, {"text_1": "x", "text_2": ["x", None]}, 400, f"text_2[1]: {NO_TEXT}"),
    ],
)
async def test_refusals(alone: Alone, path: str, fields: dict[str, Any], status: int, text: str) -> None:
    content = json.dumps({"model": "demo-embed"} | fields)
    response = await alone.api.post(path, content=content)
    assert (response.status_code, response.json()) == (status, {"error": text})
    compatible = await alone.api.post(path.replace("/api/", "/v1/"), content=content)
    assert (compatible.status_code, compatible.json()["error"]["message"]) == (status, text)
    assert alone.places == []


async def test_pictures_are_the_engines_to_read(alone: Alone) -> None:
    picture = {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}
    alone.engine.script(whole({"model": "theirs", "results": []}))
    body = {"model": "demo-embed", "query": "x", "documents": [picture], "max_tokens_per_doc": 5, "instruction": "best"}
    assert (await alone.api.post(RERANK, json=body)).json() == {"model": "demo-embed", "results": []}
    asked = alone.engine.last_body
    assert (asked["documents"], asked["max_tokens_per_doc"], asked["instruction"]) == ([picture], 5, "best")


@pytest.mark.parametrize(
    ("behaviour", "status", "text"),
    [
        (refusal(400, "odd"), 400, "odd"),
        (whole({"detail": "Not Found"}, 404), 400, '"demo-embed" does not support '),
        (whole([]), 500, "the engine's reply cannot be read: "),
        (whole(b'{"a": ' + b"[" * 100_000), 500, "the engine's reply cannot be read: "),
    ],
)
async def test_faults_of_the_engine(alone: Alone, behaviour: Any, status: int, text: str) -> None:
    for path, fields in ((RERANK, {"query": "x", "documents": ["x"]}), (SCORE, {"text_1": "x", "text_2": "x"})):
        alone.engine.script(behaviour)
        response = await alone.api.post(path, json={"model": "demo-embed"} | fields)
        assert response.status_code == status
        assert response.json()["error"].startswith(text)


async def test_leaving_before_the_answer_aborts_it(alone: Alone) -> None:
    silence = Silence()
    alone.engine.script(silence)
    body = {"model": "demo-embed", "query": "x", "documents": ["x"]}
    asking = asyncio.create_task(alone.api.post(RERANK, json=body))
    await asyncio.wait_for(silence.reached.wait(), 5)
    asking.cancel()
    await asyncio.wait_for(silence.aborted.wait(), 5)
    await asyncio.wait_for(alone.place.stopped.wait(), 5)
