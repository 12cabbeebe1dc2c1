"""Several tokens an event, where an engine answers many at once: each event costs its API server more than its token.

The demo model on two busy cores without a GPU, answers of 64 tokens, asked directly in turn by
`benchmarks/engine.py --intervals 1,2,4,8`; medians of the rounds:

INTERVALTABLE

Fewer events come in larger pieces, so a single user never gets them, and many do only as far as it pays. vLLM sends an
answer's first token at once all the same, and its end with the last one.
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
