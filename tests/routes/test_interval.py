"""How many tokens an event an engine is asked for."""

import asyncio

import pytest
from msgspec import Raw

from tests.fake_engine import Stream, chat_events
from vllama.routes._interval import fewer_events

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Busy:
    """As a client of an engine that has so many requests."""

    def __init__(self, requests):
        self.requests = requests


@pytest.mark.parametrize(("requests", "tokens"), [(0, None), (31, None), (32, 2), (63, 2), (64, 4), (500, 4)])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("streamed", [True, Raw(b"true")], ids=["translated", "handed on"])
def test_by_the_load(path, streamed, requests, tokens):
    wanted = {} if tokens is None else {"stream_interval": tokens}
    assert fewer_events(Busy(requests), path, {"stream": streamed}) == wanted


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {}),
        (CHAT, {"stream": False}),
        (CHAT, {"stream": Raw(b"false")}),
        (CHAT, {"stream": True, "stream_interval": 1}),
        (CHAT, {"stream": True, "tools": []}),
        ("/tokenize", {"stream": True}),
    ],
)
def test_never(path, body):
    assert fewer_events(Busy(500), path, body) == {}


async def test_a_full_engine(alone, monkeypatch):
    """The requests that are answered at the same time are counted, and a client's own word is kept."""
    monkeypatch.setattr("vllama.routes._interval._STEPS", ((1, 4),))
    held = Stream(*chat_events("Hel", finish=None)[:2], end="hang")
    alone.engine.script(held, *(Stream(*chat_events("Hel", "lo")) for _ in range(3)))
    song = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
    first = asyncio.create_task(alone.api.post("/api/chat", json=song))
    await held.sent.wait()
    for body, path in (({}, "/api/chat"), ({"stream": True}, CHAT), ({"stream": True, "stream_interval": 1}, CHAT)):
        assert (await alone.api.post(path, json=song | body)).status_code == 200
    first.cancel()
    asked = [asked.body.get("stream_interval") for asked in alone.engine.asked]
    assert asked == [None, 4, 4, 1]
