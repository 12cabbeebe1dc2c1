"""Several tokens an event, where an engine answers many at once: each event costs its API server more than its token.

The demo model, whose worker takes 0.8 ms of CPU for a token, on one core that others use, too; 32 clients, answers of
256 tokens (`benchmarks/engine.py --intervals 1,2,4 --clients 32 --tokens 256 --rounds 2`, medians):

    tokens an event    tokens/s    CPU of the API server    between events
    1                  255         263 µs/token             121 ms
    2                  300         178 µs/token             219 ms
    4                  328         150 µs/token             377 ms

Text that comes in larger pieces is less even, so only a crowd gets them, and a small one smaller ones. vLLM sends an
answer's first token at once all the same, and the last one, too.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from vllama.engine.client import EngineClient

_STEPS = ((64, 4), (32, 2))
"""From so many requests at an engine on, so many tokens an event."""
_PATHS = ("/v1/chat/completions", "/v1/completions")


def fewer_events(client: EngineClient, path: str, body: Mapping[str, Any]) -> dict[str, int]:
    """What is added to a request's body, nothing where it is not streamed or says itself what it wants.

    With tools neither: vLLM's parsers of calls are made for one token after another.
    """
    if path not in _PATHS or "stream_interval" in body or "tools" in body or not _is_streamed(body):
        return {}
    tokens = next((tokens for requests, tokens in _STEPS if client.requests >= requests), 1)
    return {"stream_interval": tokens} if tokens > 1 else {}


def _is_streamed(body: Mapping[str, Any]) -> bool:
    wanted = body.get("stream")
    return wanted is True or (isinstance(wanted, Raw) and bytes(wanted) == b"true")
