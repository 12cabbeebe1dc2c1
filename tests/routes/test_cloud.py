"""What clients are told of Ollama's cloud and accounts."""

from typing import Any

import httpx
import pytest

from tests.each import each
from tests.test_gateway import SAY


async def test_status(api: httpx.AsyncClient) -> None:
    assert (await api.get("/api/status")).json() == {"cloud": {"disabled": True, "source": "config"}}
    assert (await api.head("/api/status")).status_code == 405


async def test_no_model_is_recommended(api: httpx.AsyncClient) -> None:
    response = await api.get("/api/experimental/model-recommendations")
    assert (response.status_code, response.json()) == (200, {"recommendations": []})


@each(
    ("method", "path", "content", "status", "text"),
    [
        ("POST", "/api/me", b"", 401, "unauthorized"),
        ("POST", "/api/signout", b"", 401, "you are not currently signed in"),
        ("DELETE", "/api/user/keys/c3No%2FLWVk", b"", 401, "you are not currently signed in"),
        ("POST", "/api/experimental/web_search", b" \n", 400, "missing request body"),
        ("POST", "/api/experimental/web_fetch", b"", 400, "missing request body"),
        (
            "POST", "/api/experimental/web_search", b'{"query": "x"}', 403,
            "ollama cloud is disabled: web search is unavailable",
        ),
        ("POST", "/api/experimental/web_fetch", b"x", 403, "ollama cloud is disabled: web fetch is unavailable"),
    ],
)  # fmt: skip
async def test_refusals(api: httpx.AsyncClient, method: str, path: str, content: bytes, status: int, text: str) -> None:
    response = await api.request(method, path, content=content)
    assert (response.status_code, response.json()) == (status, {"error": text})


@each("name", ["gpt-oss:20b-cloud", "Nope:CLOUD", "demo:cloud"])
@each(
    ("path", "body", "text"),
    [
        ("/api/show", {}, "remote model details are unavailable"),
        ("/api/generate", {"prompt": "x"}, "remote model is unavailable"),
        ("/api/generate", {"keep_alive": 0}, "remote model is unavailable"),
        ("/api/chat", {"messages": SAY}, "remote model is unavailable"),
        ("/api/embed", {"input": "x"}, "remote model is unavailable"),
        ("/api/embeddings", {"prompt": "x"}, "remote model is unavailable"),
    ],
)
async def test_models_of_the_cloud(
    api: httpx.AsyncClient, name: str, path: str, body: dict[str, Any], text: str
) -> None:
    response = await api.post(path, json={"model": name} | body)
    assert (response.status_code, response.json()) == (403, {"error": f"ollama cloud is disabled: {text}"})


async def test_models_of_the_cloud_in_openais_words(api: httpx.AsyncClient) -> None:
    response = await api.post("/v1/chat/completions", json={"model": "x:cloud", "messages": SAY})
    assert response.status_code == 403
    assert response.json()["error"]["message"] == "ollama cloud is disabled: remote model is unavailable"


@pytest.mark.parametrize("path", ["/api/show", "/api/generate", "/api/chat"])
async def test_local_and_cloud_at_once(api: httpx.AsyncClient, path: str) -> None:
    response = await api.post(path, json={"model": "foo:cloud:local", "messages": SAY})
    assert response.status_code == 400
    assert response.json() == {"error": 'use either :local or :cloud, not both: "foo:cloud:local"'}
