"""vLLM's HTTP side without vLLM: replays what a real one answered, and shows faults that no real one shows on demand.

The recordings lie in `recordings/`, a file for each model. They are made anew, from a real vLLM that the project's own
code installs and starts (on a CPU, within some minutes), by

    VLLAMA_RECORD=1 uv run pytest tests/routes

which also is a run of those tests against the real engine. All of `tests/routes` must run: a recording that no test
asked for is dropped. `VLLAMA_RECORD=missing` keeps what there is, asks the real engine only what it was never asked
before, and is for single tests too. `VLLAMA_ENGINE_PYTHON` and the other settings of the engine's installation hold as
they do for `vllama serve`.
"""

import asyncio
import difflib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from vllama.engine.client import EngineClient
from vllama.engine.engine import State
from vllama.engine.progress import Progress
from vllama.models.model import Model
from vllama.scheduling.plan import AdapterLimits, Demand

RECORDING = os.environ.get("VLLAMA_RECORD", "")
FOLDER = Path(__file__).parent / "recordings"

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Exchange:
    """One request and the reply to it. chunks: the body as it came; bytes that are no UTF-8 as lone surrogates."""

    method: str
    path: str
    body: Any
    status: int
    content_type: str
    chunks: list[str]

    @property
    def request(self) -> str:
        return describe(self.method, self.path, self.body)


def describe(method: str, path: str, body: Any) -> str:
    """A request as text: equal for equal requests."""
    return f"{method} {path} {json.dumps(body, sort_keys=True, indent=1)}"


class Recordings:
    """The exchanges with one model's engine, by request."""

    def __init__(self, name: str) -> None:
        self.path = FOLDER / f"{name}.json"
        self._exchanges: dict[str, Exchange] = {}
        if self.path.exists() and RECORDING != "1":
            for entry in json.loads(self.path.read_text()):
                self.add(Exchange(**entry))

    def add(self, exchange: Exchange) -> None:
        self._exchanges[exchange.request] = exchange

    def find(self, request: str) -> Exchange | None:
        return self._exchanges.get(request)

    def explain_missing(self, request: str) -> str:
        """Why a request has no reply, with the recorded request that is most like it."""
        nearest = difflib.get_close_matches(request, self._exchanges, n=1, cutoff=0.0)
        difference = difflib.unified_diff(
            nearest[0].splitlines() if nearest else [], request.splitlines(), "recorded", "asked", lineterm="", n=1
        )
        advice = "if it is meant to be asked: VLLAMA_RECORD=1 uv run pytest tests/routes"
        return "\n".join([f"no recording in {self.path.name} matches; {advice}", *difference])

    def save(self) -> None:
        if self._exchanges:
            entries = [asdict(exchange) for _, exchange in sorted(self._exchanges.items())]
            self.path.write_text(json.dumps(entries, indent=1) + "\n")


@dataclass
class Asked:
    """A request that the fake engine got. body: JSON decoded, anything else as text."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


@dataclass
class FakeEngine:
    """An HTTP server on a free port, or on a Unix socket, that answers as `answer` does, or as the next script says.

    scripts: what the next requests get, one each; afterwards `answer` is asked.
    unmatched: explanations of requests that no recording matched; a test that leaves one has failed.
    running: requests whose reply has neither ended nor been aborted.
    """

    answer: Behaviour | None = None
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    scripts: list[Behaviour] = field(default_factory=list)
    running: int = 0
    _runner: web.AppRunner | None = None

    async def start(self, socket: Path | None = None) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # Handlers are cancelled when the gateway closes its connection: that is the abort.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        if socket is not None:
            await web.UnixSite(self._runner, str(socket)).start()
            self.url = f"unix:{socket}"
        else:
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def script(self, *behaviours: Behaviour) -> None:
        self.scripts += behaviours

    @property
    def last_body(self) -> Any:
        return self.asked[-1].body

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        is_json = request.content_type == "application/json"
        try:
            body = (json.loads(data) if is_json else data.decode("latin-1")) if data else None
        except (ValueError, RecursionError):  # what follows is vLLM's answer
            return web.json_response({"detail": "There was an error parsing the body"}, status=400)
        self.asked.append(Asked(request.method, request.path, body, dict(request.headers)))
        behaviour = self.scripts.pop(0) if self.scripts else self.answer
        if behaviour is None:
            self.unmatched.append("nothing was scripted for " + describe(request.method, request.path, body))
            return web.Response(status=500)
        self.running += 1
        try:
            return await behaviour(request)
        finally:
            self.running -= 1

    def replay(self, recordings: Recordings) -> Behaviour:
        async def behaviour(request: web.Request) -> web.StreamResponse:
            asked = self.asked[-1]
            text = describe(asked.method, asked.path, asked.body)
            if (exchange := recordings.find(text)) is None:
                self.unmatched.append(recordings.explain_missing(text))
                return web.Response(status=500, text="no recording matches")
            return await replay(exchange)(request)

        return behaviour


def replay(exchange: Exchange) -> Behaviour:
    """What a real engine once answered, in the chunks in which it came."""
    chunks = [chunk.encode("utf-8", "surrogateescape") for chunk in exchange.chunks]
    return Stream(*chunks, status=exchange.status, content_type=exchange.content_type)


class Stream:
    """A chunked reply, whole or not. `sent` is set after the last chunk, `aborted` when the gateway left before `end`.

    end: "complete", "hang" (nothing more ever comes), or "cut": the connection is closed without the last chunk, once
    the test has set `may_cut`, because what the gateway has not read by then is lost.
    """

    def __init__(
        self, *chunks: bytes, status: int = 200, content_type: str = "text/event-stream", end: str = "complete"
    ) -> None:
        self._chunks, self._status, self._type, self._end = chunks, status, content_type, end
        self.sent, self.may_cut, self.aborted = (asyncio.Event() for _ in range(3))

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=self._status, headers={"Content-Type": self._type})
        response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            for chunk in self._chunks:
                await response.write(chunk)
                await asyncio.sleep(0)
            self.sent.set()
            if self._end == "hang":
                await asyncio.Event().wait()
            if self._end == "cut":
                await self.may_cut.wait()
        except (asyncio.CancelledError, ConnectionError):
            self.aborted.set()
            raise
        if self._end == "cut":
            assert request.transport is not None
            request.transport.close()
        return response


class Silence:
    """Takes the request and answers nothing. `reached` is set when it came, `aborted` when the gateway left."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.aborted = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.aborted.set()
        raise AssertionError


def refusal(status: int, message: str, kind: str = "BadRequestError") -> Behaviour:
    """An error as vLLM words it."""

    async def behaviour(request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {"error": {"message": message, "type": kind, "param": None, "code": status}}, status=status
        )

    return behaviour


def whole(body: Any, status: int = 200) -> Behaviour:
    """One JSON object, or the bytes as they are."""

    async def behaviour(request: web.Request) -> web.StreamResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=data, status=status, content_type="application/json")

    return behaviour


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Close the connection without a reply, as an engine does that is killed."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def asked_twice(behaviour: Behaviour) -> list[Behaviour]:
    """It, and once more where the gateway then asks the next engine."""
    return [behaviour, behaviour] if behaviour is hang_up else [behaviour]


def events(*payloads: Any, end: str = "\n\n") -> list[bytes]:
    """Server-Sent Events, each from an object, or a text as it is."""
    return [
        f"data: {payload if isinstance(payload, str) else json.dumps(payload)}{end}".encode() for payload in payloads
    ]


def chat_events(*texts: str, finish: str | None = "stop") -> list[bytes]:
    """A streamed chat as vLLM sends it: the role, each text, the finish reason, the usage and `[DONE]`."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "engine's own"}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts)]
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish is not None:
        chunks.append(head | {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": finish}]})
    usage = head | {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(texts), "total_tokens": 9}}
    return events(*chunks, usage, "[DONE]")


def model_list(*identifiers: str, context_length: int | None = 4096) -> Behaviour:
    """`/v1/models` as vLLM answers it."""
    cards = [
        {"id": identifier, "object": "model", "created": 1, "owned_by": "vllm", "root": identifier, "parent": None}
        | {"max_model_len": context_length, "permission": []}
        for identifier in identifiers
    ]
    return whole({"object": "list", "data": cards})


_LIMITS = AdapterLimits(slots=4, rank=64)


class EngineInPlace:
    """What the scheduler drives, with a server that runs already for an engine.

    held: a start waits until `may_start` is set. failure: raised by a start, adapter_failure: by the load of an
    adapter. `stopped` is set by the stop. loaded: the adapters, by the names that the engine knows them by.
    """

    size = 2**30

    def __init__(
        self,
        url: str,
        *,
        name: str = "",
        context_length: int | None = 4096,
        held: bool = False,
        failure: Exception | None = None,
        adapter_failure: Exception | None = None,
        adapters: AdapterLimits | None = _LIMITS,
    ) -> None:
        self.client = EngineClient(url)
        self.name = name
        self.adapters = adapters
        self.loaded: dict[str, Path] = {}
        self.context_length = context_length
        self.state = State.STARTING
        self.log_path = Path("engine.log")
        self.progress, self.failure, self.fast, self.pid = Progress(), "", False, None
        self.ended, self.starting, self.may_start, self.stopped = (asyncio.Event() for _ in range(4))
        self._failure = failure
        self._adapter_failure = adapter_failure
        if not held:
            self.may_start.set()

    async def start(self) -> None:
        self.starting.set()
        try:
            await self.may_start.wait()
            if self._failure is not None:
                raise self._failure
        except BaseException:
            self.state = State.FAILED
            await self.stop()
            raise
        self.state = State.READY

    async def stop(self) -> None:
        self.stopped.set()
        await self.client.close()

    def die(self, failure: str) -> None:
        """End by itself, with that cause and advice."""
        self.state, self.failure = State.FAILED, failure
        self.ended.set()

    def can_sleep(self) -> bool:
        return False

    async def sleep(self) -> None:
        raise AssertionError

    async def wake(self) -> None:
        raise AssertionError

    async def load_adapter(self, name: str, path: Path) -> None:
        await asyncio.sleep(0)
        if self._adapter_failure is not None:
            raise self._adapter_failure
        self.loaded[name] = path

    async def unload_adapter(self, name: str) -> None:
        await asyncio.sleep(0)
        del self.loaded[name]


class EnginesInPlace:
    """Gives the scheduler engines that are made by `make`. All fit at once."""

    def __init__(self, make: Callable[[Model], EngineInPlace]) -> None:
        self._make = make

    async def fetch(self, model: Model, progress: Progress) -> Model:
        await asyncio.sleep(0)
        return model

    async def demand(self, model: Model) -> Demand:
        return Demand.exactly(2**30)

    async def free(self) -> int:
        return 2**40

    def engine(self, model: Model, share: int | None) -> EngineInPlace:
        return self._make(model)
