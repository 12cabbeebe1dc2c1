"""/v1/systemone."""

from typing import Any

import httpx
import ollama
import pytest

from tests.conftest import Alone, Engines
from tests.each import each

QUESTIONS = {"colour": {"type": "choice", "instructions": "Which colour?", "criteria": {"blue": None, "red": None}}}
BODY: dict[str, Any] = {"model": "Demo", "state": "The sky is blue.", "questions": QUESTIONS}


async def test_a_decision(api: httpx.AsyncClient, engines: Engines) -> None:
    reply = (await api.post("/v1/systemone", json=BODY | {"keep_alive": "1h"})).json()
    assert reply["model"] == "Demo"
    answer = reply["answers"]["colour"]
    assert answer["choice"] in ("blue", "red")
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=0.01)
    assert reply["usage"]["input_tokens"] > 0
    assert "keep_alive" not in engines["demo"].last_body


async def test_the_official_client(gateway_url: str, engines: Engines) -> None:
    client = ollama.AsyncClient(gateway_url)
    reply = await client.systemone(model="Demo", state=BODY["state"], questions=QUESTIONS)
    assert list(reply.answers) == ["colour"]
    await client.close()


@each(
    ("fields", "status", "text"),
    [
        ({"model": ""}, 400, "model is required"),
        ({"model": "a b"}, 400, "invalid model name"),
        ({"model": "nope"}, 404, "model 'nope' not found"),
        ({"model": "demo-embed"}, 400, '"demo-embed" does not support decisions'),
        ({"state": None}, 400, "state is required"),
        ({"questions": {}}, 400, "questions is required"),
        ({"questions": []}, 400, "invalid request: questions: expected object, got array"),
        ({"keep_alive": "x"}, 400, 'time: invalid duration "x"'),
    ],
)
async def test_refusals(alone: Alone, fields: dict[str, Any], status: int, text: str) -> None:
    response = await alone.api.post("/v1/systemone", json=BODY | fields)
    assert (response.status_code, response.json()["error"]["message"]) == (status, text)
    assert alone.places == []


async def test_the_engines_own_refusal(api: httpx.AsyncClient) -> None:
    questions = {"colour": {"type": "choice", "instructions": "Which?", "criteria": ["blue"]}}
    response = await api.post("/v1/systemone", json=BODY | {"questions": questions})
    assert response.status_code == 400
    assert "criteria must map option names" in response.json()["error"]["message"]
