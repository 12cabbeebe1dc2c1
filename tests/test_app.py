"""The application around the routes: unknown paths, wrong methods, errors by dialect, and its lifespan."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.conftest import Serve
from tests.fake_engine import EngineInPlace, EnginesInPlace
from vllama.app import create_app
from vllama.errors import ApiError, EngineError
from vllama.framing import ClientLeft
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.scheduling.local import LocalScheduler


class Places(EnginesInPlace):
    """Gives the scheduler engines in place, on an address at which nothing is asked."""

    def __init__(self, **kinds: Any) -> None:
        super().__init__(self._place)
        self.kinds = kinds
        self.made: list[EngineInPlace] = []

    def _place(self, model: Model) -> EngineInPlace:
        self.made.append(EngineInPlace("http://127.0.0.1:1", name=model.engine_name, **self.kinds))
        return self.made[-1]


def make_app(places: Places, *models: Model, preload: Sequence[Model] = ()) -> Starlette:
    scheduler = LocalScheduler(places, keep_alive=300.0, max_queue=4)
    return create_app(Gateway(Catalogue(models), scheduler, preload=preload))


@contextlib.asynccontextmanager
async def client_of(app: Starlette) -> Any:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/nothing", "/api", "/api/nothing", "/api/generate/x", "/v1/nothing", "/v1", "/v1/messages/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_paths(method: str, path: str) -> None:
    async with client_of(make_app(Places())) as client:
        response = await client.request(method, path)
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/", "HEAD, GET"),
        ("POST", "/api/tags", "HEAD, GET"),
        ("DELETE", "/api/version", "HEAD, GET"),
        ("HEAD", "/api/ps", "GET"),
        ("POST", "/api/ps", "GET"),
        ("GET", "/api/show", "POST"),
        ("GET", "/api/chat", "POST"),
        ("HEAD", "/api/generate", "POST"),
        ("PUT", "/v1/chat/completions", "POST"),
        ("GET", "/v1/messages", "POST"),
        ("GET", "/v1/responses", "POST"),
        ("HEAD", "/v1/models", "GET"),
        ("POST", "/v1/models/demo", "GET"),
    ],
)
async def test_wrong_methods(method: str, path: str, allow: str) -> None:
    async with client_of(make_app(Places())) as client:
        response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text == ("" if method == "HEAD" else "405 method not allowed")


async def test_allow_names_what_all_routes_of_a_path_take() -> None:
    app = make_app(Places())
    app.router.routes += [Route("/two", _raise, methods=[method]) for method in ("DELETE", "GET")]
    async with client_of(app) as client:
        response = await client.post("/two")
    assert (response.status_code, response.headers["allow"]) == (405, "HEAD, GET, DELETE")


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("HEAD", "/api/tags/", 301, "/api/tags"),
        ("GET", "/api/tags/?a=b%20c&d", 301, "/api/tags?a=b%20c&d"),
        ("POST", "/api/chat/", 307, "/api/chat"),
        ("POST", "/v1/chat/completions/", 307, "/v1/chat/completions"),
        ("GET", "/v1/models/", 301, "/v1/models"),
        ("GET", "/v1/models/a%3Fb%20c/", 301, "/v1/models/a%3Fb%20c"),
        ("GET", "/api/chat/", 404, None),
        ("POST", "/api/tags/", 404, None),
        ("HEAD", "/api/ps/", 404, None),
        ("GET", "/nothing/", 404, None),
        ("POST", "/api/chat//", 404, None),
        ("PURGE", "/nothing/", 404, None),
        ("GET", "//evil.example/", 404, None),
        ("OPTIONS", "/api/tags/", 204, None),
    ],
)
async def test_slashes_at_the_end(serve_app: str, method: str, path: str, status: int, location: str | None) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.request(method, serve_app + path)
    assert (response.status_code, response.headers.get("location")) == (status, location)
    if status == 404 and method != "HEAD":
        assert response.text == "404 page not found"


async def test_a_client_that_follows_sends_its_body_again(serve_app: str) -> None:
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as client:
        response = await client.post(f"{serve_app}/api/show/", json={"model": "x"})
    assert (response.status_code, response.json()) == (404, {"error": "model 'x:latest' not found"})


@pytest.fixture
def serve_app(empty_app: tuple[Starlette, str]) -> str:
    """A gateway without models."""
    empty_app[0].state.gateway = make_app(Places()).state.gateway
    return empty_app[1]


async def _raise(request: Request) -> Response:
    raise request.app.state.error


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ApiError(503, "too busy"), 503, "too busy"),
        (EngineError("it died", "look into the log"), 500, "it died: look into the log"),
        (ValueError("secret"), 500, "vllama failed to handle the request; its log has the details"),
    ],
)
async def test_errors_in_the_clients_dialect(error: Exception, status: int, text: str) -> None:
    app = make_app(Places())
    app.state.error = error
    app.router.routes += [Route("/api/raise", _raise), Route("/v1/raise", _raise)]
    async with client_of(app) as client:
        ollama, openai = await client.get("/api/raise"), await client.get("/v1/raise")
    assert (ollama.status_code, ollama.json()) == (status, {"error": text})
    openais = {"error": {"message": text, "type": "api_error", "param": None, "code": None}}
    assert (openai.status_code, openai.json()) == (status, openais)


async def test_a_client_that_left_gets_nothing() -> None:
    app = make_app(Places())
    app.state.error = ClientLeft()
    app.router.routes.append(Route("/raise", _raise))
    async with client_of(app) as client:
        response = await client.get("/raise")
    assert (response.status_code, response.content) == (499, b"")


async def test_the_lifespan_preloads_and_unloads(serve: Serve, models: dict[str, Model]) -> None:
    places = Places()
    async with serve(make_app(places, models["demo"], preload=[models["demo"]])) as url:
        await _until(lambda: bool(places.made))
        await asyncio.wait_for(places.made[0].starting.wait(), 5)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await client.get("/health")).json()["loaded"] == ["demo:latest"]
        assert not places.made[0].stopped.is_set()
    assert places.made[0].stopped.is_set()


async def test_stopping_while_the_model_to_preload_loads(serve: Serve, models: dict[str, Model]) -> None:
    places = Places(held=True)
    async with serve(make_app(places, models["demo"], preload=[models["demo"]])):
        await _until(lambda: bool(places.made))
        await asyncio.wait_for(places.made[0].starting.wait(), 5)
    assert places.made[0].stopped.is_set()


async def test_a_preload_that_fails_is_logged_and_the_gateway_stays(
    serve: Serve, models: dict[str, Model], caplog: pytest.LogCaptureFixture
) -> None:
    places = Places(failure=EngineError("no memory", "take a smaller model"))
    with caplog.at_level(logging.ERROR, "vllama"):
        async with serve(make_app(places, models["demo"], preload=[models["demo"]])) as url:
            await _until(lambda: "no memory: take a smaller model" in caplog.text)
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                health = (await client.get("/health")).json()
                assert health == {"status": "ok", "loaded": [], "loading": [], "failed": ["demo:latest"]}


async def _until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)
