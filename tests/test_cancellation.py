"""A client that leaves, or whose request is cancelled, at every await that its request has on the way.

A request's tasks are counted from await to await; at the n-th the client goes. That is done for n = 1, 2, 3, … until a
request is through before its turn comes. Whenever it goes, nothing of the request may be left.
"""

import asyncio
import contextlib
import contextvars
import itertools
import json
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests.asgi import Visit
from tests.engine.raw import in_use
from tests.fake_engine import EngineInPlace, EnginesInPlace, FakeEngine
from tests.permissive_engine import endless, permissive
from tests.scheduling.plain import users_of
from vllama.app import create_app
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.scheduling.local import LocalScheduler

STREAM = {"stream": True}
WHOLE = {"stream": False}
SAY_HELLO = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}
PROMPT = {"model": "demo", "prompt": "Hello!"}
LONG = {"options": {"num_ctx": 100}}
"""A context so short that the engine is asked for the prompt's tokens."""
RENDER, LOAD = "generate, rendered", "load"
SCENARIOS = {
    "chat, streamed": ("/api/chat", SAY_HELLO | STREAM),
    "chat, whole": ("/api/chat", SAY_HELLO | WHOLE),
    "chat, long": ("/api/chat", {"model": "demo", "messages": 3 * SAY_HELLO["messages"]} | LONG),
    "generate, streamed": ("/api/generate", PROMPT | STREAM),
    "generate, whole": ("/api/generate", PROMPT | WHOLE),
    "generate, with a context": ("/api/generate", PROMPT | {"context": [1, 2]}),
    RENDER: ("/api/generate", PROMPT | {"_debug_render_only": True}),
    LOAD: ("/api/generate", {"model": "demo"}),
    "OpenAI's chat, streamed": ("/v1/chat/completions", SAY_HELLO | STREAM),
    "OpenAI's chat, whole": ("/v1/chat/completions", SAY_HELLO),
    "OpenAI's completion, streamed": ("/v1/completions", PROMPT | STREAM),
    "OpenAI's response, streamed": ("/v1/responses", {"model": "demo", "input": "Hello!"} | STREAM),
    "Anthropic's message, streamed": ("/v1/messages", SAY_HELLO | {"max_tokens": 9} | STREAM),
    "Anthropic's message, whole": ("/v1/messages", SAY_HELLO | {"max_tokens": 9}),
    "embed": ("/api/embed", {"model": "demo-embed", "input": "Hello!"}),
    "rerank": ("/v1/rerank", {"model": "demo-embed", "query": "Hello!", "documents": ["Hi!"]}),
    "OpenAI's embeddings": ("/v1/embeddings", {"model": "demo-embed", "input": "Hello!"}),
}

_tasks_of_request: contextvars.ContextVar["list[asyncio.Task[Any]] | None"] = contextvars.ContextVar("t", default=None)


class Awaits:
    """Counts the awaits of all tasks that are started, the engine's too, and acts at the one whose number is `last`."""

    def __init__(self) -> None:
        self.taken = 0
        self.last = 0
        self.act: Callable[[], object] = lambda: None

    def expect(self, last: int, act: Callable[[], object]) -> None:
        self.taken, self.last, self.act = 0, last, act

    @property
    def acted(self) -> bool:
        return self.taken >= self.last

    def start(self, loop: asyncio.AbstractEventLoop, work: Any, **settings: Any) -> "asyncio.Task[Any]":
        """A task factory."""
        task = asyncio.Task(self._run(work), loop=loop, **settings)
        task.add_done_callback(lambda _task: work.close())  # one that is cancelled before its first step has not begun
        if (tasks := _tasks_of_request.get()) is not None:
            tasks.append(task)
        return task

    async def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await self._step(work)

    @types.coroutine
    def _step(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, None, Any]:
        error: BaseException | None = None
        while True:
            try:
                awaited = work.send(None) if error is None else work.throw(error)
            except StopIteration as end:
                return end.value
            self.taken += 1
            if self.taken == self.last:
                self.act()
            try:
                yield awaited
                error = None
            except BaseException as raised:
                error = raised


@pytest.fixture
async def awaits() -> AsyncIterator[Awaits]:
    awaits = Awaits()
    loop = asyncio.get_running_loop()
    loop.set_task_factory(awaits.start)  # type: ignore[arg-type]
    yield awaits
    loop.set_task_factory(None)


@dataclass
class Place:
    """A gateway before an engine, both of this test alone."""

    models: dict[str, Model]
    engine: FakeEngine
    engines: list[EngineInPlace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = LocalScheduler(EnginesInPlace(self._place), keep_alive=300.0, max_queue=2)
        self.app = create_app(Gateway(Catalogue(self.models.values()), self.scheduler))

    def _place(self, model: Model) -> EngineInPlace:
        self.engines.append(EngineInPlace(self.engine.url, name=model.engine_name))
        return self.engines[-1]

    def connections_in_use(self) -> int:
        pools = [engine.client._pool for engine in self.engines]
        return sum(in_use(pool) for pool in pools if pool is not None)

    async def check_nothing_is_left(self, tasks: "list[asyncio.Task[Any]]") -> None:
        async with asyncio.timeout(5):
            while self.engine.running:
                await asyncio.sleep(0)
        assert users_of(self.scheduler) == 0
        admission = self.app.state.gateway.admission
        assert (admission.in_flight, admission.bodies.held) == (0, 0)
        assert list(self.scheduler._waiters) == []
        assert self.connections_in_use() == 0
        assert [task for task in tasks if not task.done() and not is_the_schedulers(task)] == []

    async def aclose(self) -> None:
        await self.scheduler.close()


def is_the_schedulers(task: "asyncio.Task[Any]") -> bool:
    """Whether it outlives the request that started it: loads go on, and engines are watched, for the next one."""
    return task.get_name().startswith(("scheduler", "fetch-", "load-", "watch-"))


def request(place: Place, scenario: str) -> Visit:
    path, body = SCENARIOS[scenario]
    return Visit(place.app, path, json.dumps(body).encode())


async def end_at(last: int, awaits: Awaits, visit: Visit, *, cancel: bool) -> "list[asyncio.Task[Any]]":
    """Make the visit, which ends at that await, or undisturbed before it. Returns the tasks started for it."""
    tasks: list[asyncio.Task[Any]] = []
    context = contextvars.copy_context()
    context.run(_tasks_of_request.set, tasks)

    async def run() -> None:
        awaits.expect(last, lambda: running.cancel() if cancel else visit.leave())
        await visit.run()

    running = asyncio.create_task(run(), context=context)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return tasks


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(permissive)
    await engine.start()
    yield engine
    await engine.stop()


ways_to_end = pytest.mark.parametrize("cancel", [False, True], ids=["leaves", "cancelled"])


@ways_to_end
@pytest.mark.parametrize("scenario", [scenario for scenario in SCENARIOS if scenario != LOAD])
async def test_a_request_that_ends_anywhere_leaves_nothing(
    models: dict[str, Model], awaits: Awaits, engine: FakeEngine, no_blocking: None, scenario: str, cancel: bool
) -> None:
    async with contextlib.aclosing(Place(models, engine)) as place:
        await request(place, scenario).run()  # loads the model
        for last in itertools.count(1):
            visit = request(place, scenario)
            tasks = await end_at(last, awaits, visit, cancel=cancel)
            await place.check_nothing_is_left(tasks)
            if not awaits.acted:
                break
        assert (visit.status, visit.complete) == (200, True)
        assert last > 8


@ways_to_end
@pytest.mark.parametrize("scenario", [scenario for scenario in SCENARIOS if scenario not in (LOAD, RENDER)])
async def test_a_request_that_ends_anywhere_is_aborted_in_the_engine(
    models: dict[str, Model], awaits: Awaits, engine: FakeEngine, no_blocking: None, scenario: str, cancel: bool
) -> None:
    """The engine would write on for ever."""
    async with contextlib.aclosing(Place(models, engine)) as place:
        await request(place, scenario).run()
        engine.answer = answer_endlessly
        for last in range(1, 40):
            asked = len(engine.asked)
            visit = request(place, scenario)
            tasks = await end_at(last, awaits, visit, cancel=cancel)
            assert awaits.acted
            await place.check_nothing_is_left(tasks)
        assert len(engine.asked) > asked, "the last one reached the engine"
        assert visit.body or "streamed" not in scenario


async def answer_endlessly(request: web.Request) -> web.StreamResponse:
    return await (permissive if request.path == "/tokenize" else endless)(request)


@ways_to_end
@pytest.mark.parametrize("scenario", [LOAD, "chat, streamed", "OpenAI's chat, streamed"])
async def test_a_request_that_ends_while_its_model_loads_leaves_nothing(
    models: dict[str, Model], awaits: Awaits, engine: FakeEngine, no_blocking: None, scenario: str, cancel: bool
) -> None:
    """The load goes on, for the next request."""
    for last in itertools.count(1):
        async with contextlib.aclosing(Place(models, engine)) as place:
            visit = request(place, scenario)
            tasks = await end_at(last, awaits, visit, cancel=cancel)
            acted = awaits.acted
            await place.check_nothing_is_left(tasks)
            following = await request(place, scenario).run()
            assert (following.status, following.complete) == (200, True)
            assert len(place.engines) == 1
        assert [task for task in tasks if not task.done()] == []
        if not acted:
            break
    assert (visit.status, visit.complete) == (200, True)
    assert last > 8
