"""What holds for every request: valid ones are answered, others refused in words, and none upsets the gateway."""

import asyncio
import contextlib
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import Phase, given
from starlette.applications import Starlette
from starlette.routing import Route

from tests.asgi import Visit, post
from tests.bodies import ENDPOINTS, Endpoint
from tests.examples import examples
from tests.fake_engine import EngineInPlace, EnginesInPlace, FakeEngine
from tests.mutations import mutate, smallest
from tests.permissive_engine import permissive
from vllama.app import create_app
from vllama.dialects import ANTHROPIC, OLLAMA, dialect_of
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.scheduling.local import LocalScheduler

VALID_OF_EACH = 20
ANYTHING = Model(parse("anything"), source="anything", engine_name="anything:latest")
"""A model of which nothing is known, which is therefore asked for everything."""

TAKES_NO_JSON = {
    "/api/blobs/{digest}",
    "/api/me",
    "/api/signout",
    "/api/experimental/web_search",
    "/api/experimental/web_fetch",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/responses/{id}/cancel",
}

CHANGES_MODELS = {"/api/pull", "/api/push", "/api/create", "/api/copy"}
"""What these do is no matter of bodies alone: they have tests of their own."""


def make_app(models: dict[str, Model], url: str = "") -> Starlette:
    engines = EnginesInPlace(lambda model: EngineInPlace(url, name=model.engine_name))
    catalogue = Catalogue([*models.values(), ANYTHING])
    return create_app(Gateway(catalogue, LocalScheduler(engines, keep_alive=300.0, max_queue=16)))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """A loop that runs between Hypothesis's examples, which are not asynchronous, only while one of them asks."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def app(models: dict[str, Model], runner: asyncio.Runner) -> Iterator[Starlette]:
    @contextlib.asynccontextmanager
    async def started() -> AsyncIterator[Starlette]:
        engine = FakeEngine(permissive)
        await engine.start()
        app = make_app(models, engine.url)
        yield app
        await app.state.gateway.scheduler.close()
        await engine.stop()

    context = started()
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


def check_error(visit: Visit) -> str:
    """That the reply is an error in the manner of the client's protocol. Returns its text."""
    error = visit.json()["error"]
    dialect = dialect_of(visit.path)
    if dialect is OLLAMA:
        text = error
    else:
        text = error["message"]
        assert error["type"]
        assert dialect is not ANTHROPIC or visit.json()["type"] == "error"
    assert isinstance(text, str)
    assert text
    return text


def check_success(visit: Visit) -> None:
    """That a reply with status 200 has an end, and no error in it."""
    match visit.headers["content-type"].partition(";")[0]:
        case "application/json":
            assert "error" not in visit.json() or visit.json()["error"] is None
        case "application/x-ndjson":
            lines = [json.loads(line) for line in visit.body.splitlines()]
            ends = [line["done"] if "done" in line else line["status"] == "success" for line in lines]
            assert ends == [False] * (len(lines) - 1) + [True]
        case "text/event-stream":
            assert visit.body.endswith(b"\n\n")
            assert b'"error":{' not in visit.body
        case other:
            raise AssertionError(other)


def test_all_that_takes_json_is_asked() -> None:
    """Another path to the same endpoint need not be."""
    posts = [route for route in make_app({}).routes if isinstance(route, Route) and "POST" in (route.methods or ())]
    asked = {route.endpoint for route in posts if route.path in {endpoint.path for endpoint in ENDPOINTS}}
    assert {route.path for route in posts if route.endpoint not in asked} == TAKES_NO_JSON | CHANGES_MODELS


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_valid_requests_never_fail(
    endpoint: Endpoint, app: Starlette, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    statuses: Counter[int] = Counter()

    @examples(VALID_OF_EACH)
    @given(endpoint.bodies())
    def check(body: Any) -> None:
        visit = runner.run(post(app, endpoint.path, json.dumps(body).encode()))
        statuses[visit.status] += 1
        assert visit.complete
        if visit.status == 200:
            check_success(visit)
        else:
            assert visit.status in (400, 403, 404), visit.body
            check_error(visit)

    check()
    assert statuses[200] >= VALID_OF_EACH / 5, f"most are refused: {statuses}"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


INVALID_IN_ALL = 4_000
UPSTREAM_FAILURES = re.compile(
    r'option "\w+" must be of type (float32|integer|boolean|array)'
    r'|option "stop" must be of an array of strings'
    r'|invalid format: ".*"; expected "json" or a valid JSON Schema object',
    re.DOTALL,
)
"""What Ollama answers with status 500 though the client is to blame."""


def check_answer(visit: Visit) -> None:
    """That a reply to whatever was asked is a success, or says what was wrong with the request."""
    assert visit.complete
    if visit.status == 200:
        return check_success(visit)
    text = check_error(visit)
    assert "Traceback" not in text
    if visit.status == 500:
        assert visit.path.startswith("/api/")
        assert UPSTREAM_FAILURES.fullmatch(text), text
    else:
        assert 400 <= visit.status < 500
    return None


async def explain(app: Starlette, path: str, body: bytes) -> str | None:
    """What is wrong with the answer to this body, None where nothing is."""
    try:
        check_answer(await post(app, path, body))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


async def describe(app: Starlette, path: str, body: bytes) -> str:
    """The least of the body that is answered as it should not be, and how."""

    async def fails(shorter: bytes) -> bool:
        return await explain(app, path, shorter) is not None

    least = await smallest(body, fails)
    return f"{least!r}: {await explain(app, path, least)}"


def some_valid(endpoint: Endpoint) -> list[Any]:
    bodies = [dict(endpoint.good)]

    @examples(12, phases=[Phase.generate])
    @given(endpoint.bodies())
    def collect(body: Any) -> None:
        bodies.append(body)

    collect()
    return bodies


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_invalid_requests_are_refused_in_words(
    endpoint: Endpoint, app: Starlette, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    valid = some_valid(endpoint)
    good = json.dumps(endpoint.good).encode()

    async def first_fault() -> str | None:
        for number in range(-(-INVALID_IN_ALL // len(ENDPOINTS))):
            body = mutate(valid[number % len(valid)], number)
            if await explain(app, endpoint.path, body):
                return await describe(app, endpoint.path, body)
            if number % 100 == 0:
                assert (await post(app, endpoint.path, good)).status == 200
        return None

    assert runner.run(first_fault()) is None
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
