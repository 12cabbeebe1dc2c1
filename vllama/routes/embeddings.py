"""/api/embed, its older form /api/embeddings, and OpenAI's /v1/embeddings."""

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import JSONResponse, until_client_leaves
from vllama.models.model import Model
from vllama.routes._ask import Question, ask, checked_keep_alive, durations, load
from vllama.routes._edge import find_model, quote
from vllama.routes._reading import read_body
from vllama.translate.embed import INPUT_TOO_LONG, embedding_request, openai_inputs, texts, unit, vector
from vllama.translate.failure import CONTEXT_EXCEEDED
from vllama.translate.options import check_options
from vllama.wire.embed import (
    EmbeddingsRequest,
    EmbedRequest,
    EngineEmbedding,
    EngineEmbeddings,
    OpenAIEmbeddingsRequest,
)

_VECTORS_AT_ONCE = 32
"""Some milliseconds of work, after which it is the turn of the other requests."""

_encode = msgspec.json.Encoder().encode


async def embed(request: Request) -> Response:
    arrived = time.monotonic_ns()
    body = await read_body(request, EmbedRequest)
    keep_alive = checked_keep_alive(body.keep_alive)
    _require_model(body.wanted)
    inputs = texts(body.input)
    model = await _find(request, body.wanted, body.options)
    if not inputs:
        await load(request, model, keep_alive)
        return JSONResponse({"model": body.wanted, "embeddings": []})
    asked = embedding_request(inputs, truncate=body.truncate is not False)
    reply, loaded = await _embed(request, model, body.wanted, asked, keep_alive)
    vectors = await _render(request, reply.data, lambda _, floats: unit(floats, body.dimensions).tolist())
    numbers = durations(arrived, loaded) | {"prompt_eval_count": max(1, reply.usage.prompt_tokens)}
    return _around({"model": body.wanted}, "embeddings", vectors, numbers)


async def embeddings(request: Request) -> Response:
    """One text, whose vector is left as the engine made it."""
    body = await read_body(request, EmbeddingsRequest)
    keep_alive = checked_keep_alive(body.keep_alive)
    if not body.wanted.strip():
        raise ApiError(400, "model is required")
    model = await _find(request, body.wanted, body.options)
    if not body.prompt:
        await load(request, model, keep_alive)
        return JSONResponse({"embedding": []})
    asked = embedding_request([body.prompt], truncate=False)
    reply, _ = await _embed(request, model, body.wanted, asked, keep_alive)
    return JSONResponse({"embedding": vector(reply.data[0].embedding).tolist()})


async def openai_embeddings(request: Request) -> Response:
    body = await read_body(request, OpenAIEmbeddingsRequest, empty="EOF")
    as_floats = _wants_floats(body.encoding_format)
    inputs, wanted = openai_inputs(body.input), body.model or ""
    _require_model(wanted)
    model = await _find(request, wanted)
    reply, _ = await _embed(request, model, wanted, embedding_request(inputs, truncate=True))

    def entry(index: int, floats: "array[float]") -> dict[str, Any]:
        shown = unit(floats, body.dimensions)
        # msgspec writes bytes as base64.
        return {
            "object": "embedding",
            "embedding": shown.tolist() if as_floats else shown.tobytes(),
            "index": index,
        }

    tokens = reply.usage.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    data = await _render(request, reply.data, entry)
    return _around({"object": "list"}, "data", data, {"model": wanted, "usage": usage})


def _require_model(wanted: str) -> None:
    if not wanted.strip():
        raise ApiError(404, "model '' not found")


def _wants_floats(encoding_format: str | None) -> bool:
    if encoding_format and encoding_format.lower() not in ("float", "base64"):
        raise ApiError(
            400, f"Invalid value for 'encoding_format' = {encoding_format}. Supported values: ['float', 'base64']."
        )
    return not encoding_format or encoding_format.lower() == "float"


async def _find(request: Request, wanted: str, options: dict[str, Any] | None = None) -> Model:
    model = await find_model(request, wanted, unknown='model "{}" not found, try pulling it first')
    if model.lacks("embedding"):
        raise ApiError(400, f"{quote(wanted)} does not support embeddings")
    check_options(options or {})
    return model


async def _embed(
    request: Request, model: Model, wanted: str, body: dict[str, Any], keep_alive: float | None = None
) -> tuple[EngineEmbeddings, int]:
    question = Question(model, wanted, "/v1/embeddings", body, "embeddings", keep_alive)
    try:
        reply, loaded = await ask(request, question, EngineEmbeddings)
    except ApiError as error:
        if error.message == CONTEXT_EXCEEDED:
            raise ApiError(400, INPUT_TOO_LONG) from None
        raise
    if len(reply.data) != len(body["input"]):
        raise ApiError(500, f"the engine made {len(reply.data)} embeddings of {len(body['input'])} inputs")
    reply.data.sort(key=lambda entry: entry.index)
    return reply, loaded


async def _render(
    request: Request, entries: Sequence[EngineEmbedding], show: Callable[[int, "array[float]"], Any]
) -> list[bytes]:
    """The JSON array of what `show` makes of each vector, in pieces."""

    async def render() -> list[bytes]:
        pieces = []
        for index, entry in enumerate(entries):
            if index % _VECTORS_AT_ONCE == 0:
                await asyncio.sleep(0)
            pieces += [b"," if index else b"[", _encode(show(index, vector(entry.embedding)))]
        return [*pieces, b"]"]

    return await until_client_leaves(request, render())


def _around(before: dict[str, Any], name: str, pieces: list[bytes], after: dict[str, Any]) -> Response:
    """An object with a large member between others. Its pieces, some megabytes, are copied once."""
    head = b'%b,"%b":' % (_encode(before)[:-1], name.encode())
    return Response(b"".join([head, *pieces, b",", _encode(after)[1:]]), media_type=JSONResponse.media_type)


routes = [
    Route("/api/embed", embed, methods=["POST"]),
    Route("/api/embeddings", embeddings, methods=["POST"]),
    Route("/v1/embeddings", openai_embeddings, methods=["POST"]),
]
