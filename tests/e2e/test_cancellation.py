"""Clients that leave a real engine's replies: it stops writing, and the gateway forgets them."""

import asyncio
import itertools
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest

from tests.served import Served, wait_until
from vllama.demo.dialogues import DIALOGUES

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

ENDLESS = next(dialogue for dialogue in DIALOGUES if dialogue.endless)
CHAT = {"model": "demo", "messages": list(ENDLESS.messages)}
GENERATE = {"model": "demo", "prompt": ENDLESS.question}
STREAMED: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", CHAT),
    ("/api/generate", GENERATE),
    ("/v1/chat/completions", CHAT | {"stream": True}),
]
WHOLE = [("/api/chat", CHAT | {"stream": False}), ("/v1/chat/completions", CHAT)]
RUNNING = "vllm:num_requests_running"


async def leave_after_lines(api: httpx.AsyncClient, path: str, body: dict[str, Any], count: int) -> None:
    async with api.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        lines = response.aiter_lines()
        for _ in range(count):
            await anext(lines)


async def leave_after_time(api: httpx.AsyncClient, path: str, body: dict[str, Any], seconds: float) -> None:
    """The song has no end: the reply is still on its way."""
    with pytest.raises(httpx.ReadTimeout):
        await api.post(path, json=body, timeout=httpx.Timeout(30, read=seconds))


async def test_what_clients_leave_is_aborted_everywhere(demo: Served) -> None:
    async with httpx.AsyncClient(base_url=demo.url, timeout=200) as api:  # the model may still be loading
        async with api.stream("POST", "/api/chat", json=CHAT) as response:
            await anext(response.aiter_lines())
            assert demo.engine_metric(RUNNING) == 1
        hello = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "stream": False}
        assert (await api.post("/api/chat", json=hello)).status_code == 200
    sockets = demo.sockets()
    async with httpx.AsyncClient(base_url=demo.url, timeout=60) as api:
        visits: list[Awaitable[None]] = [
            *(leave_after_lines(api, *asked, count) for asked, count in itertools.product(STREAMED, range(8))),
            *(
                leave_after_time(api, *asked, step / 500)
                for asked, step in itertools.product(STREAMED + WHOLE, range(1, 6))
            ),
        ]
        await asyncio.gather(*visits)
    wait_until(lambda: demo.engine_metric(RUNNING) == 0, 10, "the engine has stopped writing")
    assert demo.engine_metric("vllm:num_requests_waiting") == 0
    wait_until(lambda: demo.sockets() <= sockets, 10, f"the gateway has no more sockets than {sockets}")
    assert "Traceback" not in demo.log
