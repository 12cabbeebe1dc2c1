"""What one writes by hand in an afternoon: Ollama's chat before an OpenAI server, with Starlette, httpx and json.

    python -m benchmarks._reference --engine PATH --port PORT

It knows nothing but `/api/chat`, streamed, and takes whatever comes for an answer.
"""

import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._wire import listening_options


def application(engine: str) -> Starlette:
    client = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=engine, limits=httpx.Limits(max_connections=None)),
        base_url="http://engine", timeout=600.0,
    )  # fmt: skip

    async def lines(wanted: str, asked: dict[str, Any]) -> AsyncIterator[str]:
        async with client.stream("POST", "/v1/chat/completions", json=asked) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        message = {"role": "assistant", "content": choice["delta"].get("content") or ""}
                        chunk = {"model": wanted, "created_at": datetime.now(UTC).isoformat(), "message": message}
                        yield json.dumps(chunk | {"done": choice["finish_reason"] is not None}) + "\n"

    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()
        asked = {"model": body["model"], "messages": body["messages"], "stream": True}
        return StreamingResponse(lines(body["model"], asked), media_type="application/x-ndjson")

    return Starlette(routes=[Route("/api/chat", chat, methods=["POST"])])


if __name__ == "__main__":
    options = listening_options(__doc__)
    options.add_argument("--engine", required=True, help="the engine's socket")
    arguments = options.parse_args()
    uvicorn.run(application(arguments.engine), port=arguments.port, log_level="warning", access_log=False)
