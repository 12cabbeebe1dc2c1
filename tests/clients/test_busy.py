"""What the clients of others make of a server that is busy. They need none with an engine for that."""

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import ollama
import openai
import pytest

from tests.conftest import Alone
from tests.crowd import HELLO, MOST, full
from tests.fake_engine import whole
from vllama.admission import Admission
from vllama.overload import BUSY

pytestmark = [pytest.mark.engine, pytest.mark.clients]


@pytest.fixture
def crowded(alone: Alone) -> Alone:
    alone.gateway.admission = Admission(MOST)
    return alone


async def openai_error(url: str, **settings: Any) -> Exception | str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", **settings) as client:
        try:
            answer = await client.chat.completions.create(model="demo", messages=HELLO)
        except openai.APIError as error:
            return error
        return answer.choices[0].message.content


async def anthropic_error(url: str, **settings: Any) -> Exception | str:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="x", **settings) as client:
        try:
            answer = await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        except anthropic.APIError as error:
            return error
        return answer.content[0].text


@pytest.mark.parametrize(
    ("ask", "name"), [(openai_error, "InternalServerError"), (anthropic_error, "ServiceUnavailableError")]
)
async def test_clients_are_told_and_ask_again_when_they_are_to(
    crowded: Alone, monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Any], name: str
) -> None:
    paused: list[float] = []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        await running[0].aclose()
        while crowded.gateway.admission.in_flight == MOST:
            await sleep(0)
        message = {"role": "assistant", "content": "Hello"}
        crowded.engine.script(whole({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))

    async with full(crowded) as running:
        error = await ask(crowded.url, max_retries=0)
        assert (type(error).__name__, error.status_code, BUSY in str(error)) == (name, 503, True)
        monkeypatch.setattr("anyio.sleep", pause)
        assert await ask(crowded.url, max_retries=1) == "Hello"
    assert paused[0] in range(1, 6)
    assert len(paused) == 1


async def test_ollamas_client_is_told(crowded: Alone) -> None:
    async with full(crowded), ollama.AsyncClient(crowded.url) as client:
        with pytest.raises(ollama.ResponseError) as raised:
            await client.chat("demo", HELLO)
    assert (raised.value.status_code, raised.value.error) == (503, BUSY)
