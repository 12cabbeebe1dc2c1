"""What the official clients make of an engine that is lost: an exception with the cause, whenever it happens.

They are imported when they are used: to do so takes seconds, of each process that collects tests.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pkgutil import resolve_name
from typing import Any

import pytest
from aiohttp import web

from tests.clients.talk import says
from tests.conftest import Alone
from tests.fake_engine import Behaviour, Stream, chat_events, events, hang_up, refusal
from vllama.routes._failures import DIED

Talk = Callable[[str], AsyncIterator[str]]
CAUSE = "it was killed by SIGKILL"
ASKED: dict[str, Any] = {"model": "demo", "messages": says("Hello!"), "stream": True}


async def talk_to_openai(url: str) -> AsyncIterator[str]:
    import openai

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        async for chunk in await client.chat.completions.create(**ASKED):
            yield chunk.choices[0].delta.content or ""


async def talk_to_anthropic(url: str) -> AsyncIterator[str]:
    import anthropic

    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        async for event in await client.messages.create(**ASKED, max_tokens=9):
            yield event.delta.text if event.type == "content_block_delta" else ""


async def talk_to_ollama(url: str) -> AsyncIterator[str]:
    import ollama

    async with ollama.AsyncClient(host=url) as client:
        async for chunk in await client.chat(**ASKED):
            yield chunk.message.content or ""


LAST_WORDS = events(
    {"error": {"message": "EngineDeadError", "type": "InternalServerError", "param": None, "code": 500}}
)

CLIENTS = pytest.mark.parametrize(
    ("talk", "error"),
    [
        (talk_to_openai, "openai.APIError"),
        (talk_to_anthropic, "anthropic.APIStatusError"),
        (talk_to_ollama, "ollama.ResponseError"),
    ],
    ids=["openai", "anthropic", "ollama"],
    indirect=["error"],
)


@pytest.fixture
def error(request: pytest.FixtureRequest) -> type[Exception]:
    """By its name, which is looked up, and with it its client imported, before a test's time begins."""
    return resolve_name(request.param)


def dying(alone: Alone, behaviour: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Behaviour:
    """The behaviour of an engine whose end is known."""

    async def behave(request: web.Request) -> web.StreamResponse:
        alone.place.client.fate.seal(CAUSE)
        return await behaviour(request)

    return behave


@CLIENTS
async def test_lost_in_the_middle_of_an_answer(alone: Alone, talk: Talk, error: type[Exception]) -> None:
    reply = Stream(*chat_events("Hel", "lo")[:2], end="cut")
    alone.engine.script(dying(alone, reply))
    heard = ""

    async def hear() -> None:
        nonlocal heard
        async for text in talk(alone.url):
            heard += text
            if heard:
                reply.may_cut.set()

    with pytest.raises(error, match=f"{DIED}: {CAUSE}"):
        await asyncio.wait_for(hear(), 20)
    assert heard.startswith("Hel")


@CLIENTS
async def test_lost_before_the_first_word(alone: Alone, talk: Talk, error: type[Exception]) -> None:
    alone.engine.script(dying(alone, hang_up), dying(alone, Stream(*LAST_WORDS)))
    with pytest.raises(error, match=f"{DIED}: {CAUSE}") as raised:
        await asyncio.wait_for(anext(talk(alone.url)), 20)
    assert getattr(raised.value, "status_code", 0) == 500


@CLIENTS
async def test_refused(alone: Alone, talk: Talk, error: type[Exception]) -> None:
    alone.engine.script(refusal(400, "the prompt is too long"))
    with pytest.raises(error, match="the prompt is too long") as raised:
        await asyncio.wait_for(anext(talk(alone.url)), 20)
    assert getattr(raised.value, "status_code", 0) == 400
