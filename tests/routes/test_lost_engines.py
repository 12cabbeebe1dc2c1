"""What a client sees of an engine that is lost under its request: nothing, or an error in its own dialect."""

import asyncio
import errno
import json
from dataclasses import replace
from typing import Any, NoReturn

import httpx
import pytest
from aiohttp import web
from starlette.applications import Starlette

from tests.asgi import Visit
from tests.conftest import Alone
from tests.fake_engine import Stream, chat_events, events, hang_up, refusal
from tests.permissive_engine import permissive
from vllama.engine.address import Address
from vllama.errors import EngineError
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.overload import BUSY
from vllama.routes._failures import DIED

SAY = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}
PROMPT = {"model": "demo", "prompt": "Hello!"}
TEXT = {"model": "demo-embed", "input": "Hello!"}
WHOLE, STREAM = {"stream": False}, {"stream": True}
SOUND = {"data": {"model": "ears"}, "files": {"file": ("hello.wav", b"RIFF....WAVE", "audio/wav")}}

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat, streamed": ("/api/chat", {"json": SAY}),
    "chat, whole": ("/api/chat", {"json": SAY | WHOLE}),
    "generate, streamed": ("/api/generate", {"json": PROMPT}),
    "generate, whole": ("/api/generate", {"json": PROMPT | WHOLE}),
    "generate, with a context": ("/api/generate", {"json": PROMPT | {"context": [1, 2]}}),
    "generate, rendered": ("/api/generate", {"json": PROMPT | {"_debug_render_only": True}}),
    "embed": ("/api/embed", {"json": TEXT}),
    "older embeddings": ("/api/embeddings", {"json": {"model": "demo-embed", "prompt": "Hello!"}}),
    "OpenAI's chat, streamed": ("/v1/chat/completions", {"json": SAY | STREAM}),
    "OpenAI's chat, whole": ("/v1/chat/completions", {"json": SAY}),
    "OpenAI's completion, streamed": ("/v1/completions", {"json": PROMPT | STREAM}),
    "OpenAI's completion, whole": ("/v1/completions", {"json": PROMPT}),
    "OpenAI's response, streamed": ("/v1/responses", {"json": {"model": "demo", "input": "Hello!"} | STREAM}),
    "OpenAI's response, whole": ("/v1/responses", {"json": {"model": "demo", "input": "Hello!"}}),
    "OpenAI's embeddings": ("/v1/embeddings", {"json": TEXT}),
    "Anthropic's message, streamed": ("/v1/messages", {"json": SAY | {"max_tokens": 9} | STREAM}),
    "Anthropic's message, whole": ("/v1/messages", {"json": SAY | {"max_tokens": 9}}),
    "Anthropic's tokens": ("/v1/messages/count_tokens", {"json": SAY}),
    "tokenize": ("/api/tokenize", {"json": {"model": "demo", "content": "Hello!"}}),
    "detokenize": ("/api/detokenize", {"json": {"model": "demo", "tokens": [1]}}),
    "vLLM's tokenize": ("/tokenize", {"json": PROMPT}),
    "rerank": ("/api/rerank", {"json": {"model": "demo-embed", "query": "Hello!", "documents": ["Hi!"]}}),
    "score": ("/api/score", {"json": {"model": "demo-embed", "text_1": "Hello!", "text_2": "Hi!"}}),
    "transcription": ("/v1/audio/transcriptions", SOUND),
}
LAST_WORDS = "EngineCore encountered an issue. See stack trace (above) for the root cause."
DEAD = refusal(500, LAST_WORDS, "InternalServerError")
DEAD_EVENT = events({"error": {"message": LAST_WORDS, "type": "InternalServerError", "param": None, "code": 500}})[0]


@pytest.fixture
def hearing(alone: Alone, empty_app: tuple[Starlette, str], models: dict[str, Model]) -> Alone:
    """`alone` with the model `ears`, which takes sound. Its engine has an answer to everything."""
    demo = models["demo"]
    assert demo.checkpoint is not None
    checkpoint = replace(demo.checkpoint, capabilities=("audio",))
    ears = replace(demo, name=parse("ears"), engine_name="ears:latest", checkpoint=checkpoint)
    empty_app[0].state.gateway.catalogue.put(ears)
    alone.engine.answer = permissive_or_deaf
    return alone


async def permissive_or_deaf(request: web.Request) -> web.StreamResponse:
    return web.json_response({"text": "Hello"}) if "audio" in request.path else await permissive(request)


@pytest.mark.parametrize("fault", [hang_up, DEAD], ids=["breaks off", "says that it is dead"])
@pytest.mark.parametrize("name", REQUESTS)
async def test_what_had_no_answer_yet_is_asked_of_the_next_engine(hearing: Alone, name: str, fault: Any) -> None:
    path, fields = REQUESTS[name]
    hearing.engine.script(fault)
    response = await hearing.api.post(path, **fields)
    assert (response.status_code, "error" in response.text.replace('"error":null', "")) == (200, False), response.text
    assert len(hearing.places) == 2
    first, again = hearing.engine.asked[0], hearing.engine.asked[1]
    assert again.path == first.path
    if path.startswith("/v1/audio"):
        assert "\r\n\r\nRIFF....WAVE\r\n" in again.body
    else:
        assert again.body == first.body


@pytest.mark.parametrize("name", REQUESTS)
async def test_nothing_is_asked_a_third_time(hearing: Alone, name: str) -> None:
    path, fields = REQUESTS[name]
    hearing.engine.script(hang_up, DEAD)
    response = await hearing.api.post(path, **fields)
    assert response.status_code == 500
    assert f"{DIED}: the engine says that it cannot go on" in response.text
    assert len(hearing.engine.asked) == len(hearing.places) == 2


async def test_a_stream_whose_first_event_is_the_engines_end(hearing: Alone) -> None:
    for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
        hearing.engine.script(Stream(DEAD_EVENT, b"data: [DONE]\n\n"))
        response = await hearing.api.post(path, json=SAY | STREAM | {"max_tokens": 9})
        assert (response.status_code, "Hel" in response.text, DIED in response.text) == (200, True, False)


STREAMED = {
    "/api/chat": SAY,
    "/api/generate": PROMPT,
    "/v1/chat/completions": SAY | STREAM,
    "/v1/messages": SAY | {"max_tokens": 9} | STREAM,
}


def last_of(response: httpx.Response, text: str) -> Any:
    """The last of a stream, in whatever dialect."""
    return json.loads(text.rstrip("\n").rpartition("\n")[2].removeprefix("data: "))


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("end", ["cut", "event"])
async def test_an_engine_lost_after_the_first_text_is_an_error_with_the_cause(
    hearing: Alone, path: str, end: str, accept: str
) -> None:
    rest = [DEAD_EVENT] if end == "event" else []
    reply = Stream(*chat_events("Hel", "lo")[:2], *rest, end="cut" if end == "cut" else "complete")

    async def lost(request: web.Request) -> web.StreamResponse:
        hearing.place.client.fate.seal("it was killed by SIGKILL")
        return await reply(request)

    hearing.engine.script(lost)
    text = ""
    async with hearing.api.stream("POST", path, json=STREAMED[path], headers={"Accept": accept}) as response:
        async for part in response.aiter_text():
            text += part
            reply.may_cut.set()
    assert response.status_code == 200
    error = last_of(response, text)["error"]
    assert (error if isinstance(error, str) else error["message"]) == f"{DIED}: it was killed by SIGKILL"
    assert len(hearing.engine.asked) == 1
    if path == "/v1/messages":
        assert "\nevent: error\n" in text


async def test_the_second_request_waits_until_the_first_engines_fate_is_known(alone: Alone) -> None:
    alone.engine.answer = permissive
    asked = asyncio.Event()

    async def doubtful(request: web.Request) -> web.StreamResponse:
        alone.place.client.fate.watched = True
        asked.set()
        return await hang_up(request)

    alone.engine.script(doubtful)
    answer = asyncio.create_task(alone.api.post("/api/chat", json=SAY | WHOLE))
    await asyncio.wait_for(asked.wait(), 5)
    await asyncio.wait_for(alone.place.client.fate.doubted.wait(), 5)
    assert (len(alone.places), len(alone.engine.asked)) == (1, 1)
    alone.place.client.fate.seal("it was killed by SIGKILL")
    assert (await answer).status_code == 200
    assert (len(alone.places), len(alone.engine.asked)) == (2, 2)


async def test_a_model_that_does_not_load_again_says_why(alone: Alone) -> None:
    async def last_time(request: web.Request) -> web.StreamResponse:
        alone.next_place["failure"] = EngineError("no memory", "take a smaller model")
        return await hang_up(request)

    alone.engine.script(last_time)
    response = await alone.api.post("/api/chat", json=SAY)
    assert (response.status_code, response.json()) == (500, {"error": "no memory: take a smaller model"})


async def test_nothing_is_asked_again_for_a_client_that_left(alone: Alone, empty_app: tuple[Starlette, str]) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        alone.place.client.fate.watched = True
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        return await hang_up(request)

    alone.engine.script(broken)
    visit = Visit(empty_app[0], "/v1/chat/completions", json.dumps(SAY).encode())
    answer = asyncio.create_task(visit.run())
    while not alone.places:
        await asyncio.sleep(0)
    await asyncio.wait_for(alone.place.client.fate.doubted.wait(), 5)
    visit.leave()
    alone.place.client.fate.seal("it was killed by SIGKILL")
    await answer
    assert (visit.status, len(alone.engine.asked), len(alone.places)) == (499, 1, 1)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_a_client_that_leaves_before_the_first_word_ends_its_request(
    alone: Alone, empty_app: tuple[Starlette, str], path: str
) -> None:
    prefill = Stream(end="hang")
    alone.engine.script(prefill)
    visit = Visit(empty_app[0], path, json.dumps(STREAMED[path]).encode())
    answer = asyncio.create_task(visit.run())
    await asyncio.wait_for(prefill.sent.wait(), 5)
    assert visit.status == 0, "an error would still have a status of its own"
    visit.leave()
    await answer
    await asyncio.wait_for(prefill.aborted.wait(), 5)
    assert (visit.status, visit.body, len(alone.engine.asked)) == (499, b"", 1)


@pytest.mark.parametrize("name", REQUESTS)
async def test_no_file_is_left_for_a_connection(hearing: Alone, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That says nothing about the engine, and passes."""

    async def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    path, body = REQUESTS[name]
    with monkeypatch.context() as patch:
        patch.setattr(Address, "connect", refuse)
        response = await hearing.api.post(path, **body)
    assert (response.status_code, hearing.engine.asked) == (503, [])
    assert "retry-after" in response.headers
    assert f"{BUSY} (the engine cannot be reached ([Errno 24] Too many open files))" in response.text
