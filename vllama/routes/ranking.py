"""Documents in the order in which they answer a query, and how alike two texts are.

By rerankers, and by embedding models, for which it is the cosine of the two vectors.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import JSONResponse
from vllama.models.model import Model
from vllama.routes._ask import Question, ask, checked_keep_alive
from vllama.routes._edge import find_model, quote
from vllama.routes._reading import read_body
from vllama.wire.embed import RerankRequest, ScoreRequest

_MAY_CUT = {"truncate_prompt_tokens": -1}
"""What is too long loses its end, as in Ollama's embeddings."""


async def rerank(request: Request) -> Response:
    body = await read_body(request, RerankRequest)
    keep_alive = checked_keep_alive(body.keep_alive)
    model = await _find(request, body.wanted, "reranking")
    if body.query is None:
        raise ApiError(400, "query is required")
    if not body.documents:
        raise ApiError(400, "documents is required")
    asked = {
        "query": _text(body.query, "query"),
        "documents": [_text(document, f"documents[{index}]") for index, document in enumerate(body.documents)],
        **_given(top_n=body.top_n, max_tokens_per_doc=body.max_tokens_per_doc, instruction=body.instruction),
        **_MAY_CUT,
    }
    question = Question(model, body.wanted, "/rerank", asked, "reranking", keep_alive)
    reply, _ = await ask(request, question, dict[str, Any])
    if body.return_documents is False:
        for ranked in reply.get("results", ()):
            ranked.pop("document", None)
    return JSONResponse(reply | {"model": body.wanted})


async def score(request: Request) -> Response:
    body = await read_body(request, ScoreRequest)
    keep_alive = checked_keep_alive(body.keep_alive)
    model = await _find(request, body.wanted, "scoring")
    asked = {**_pairs(body), **_given(instruction=body.instruction), **_MAY_CUT}
    question = Question(model, body.wanted, "/score", asked, "scoring", keep_alive)
    reply, _ = await ask(request, question, dict[str, Any])
    return JSONResponse(reply | {"model": body.wanted})


async def _find(request: Request, wanted: str, action: str) -> Model:
    model = await find_model(request, wanted)
    if model.checkpoint is not None and "completion" in model.capabilities:
        raise ApiError(400, f"{quote(wanted)} does not support {action}")
    return model


def _pairs(body: ScoreRequest) -> dict[str, Any]:
    names = ("text_1", "text_2") if body.text_1 is not None else ("queries", "documents")
    pairs = {name: getattr(body, name) for name in names}
    if None in pairs.values():
        raise ApiError(400, "text_1 and text_2, or queries and documents, are required")
    return {name: _texts(value, name) for name, value in pairs.items()}


def _texts(value: Any, name: str) -> Any:
    if not isinstance(value, list):
        return _text(value, name)
    return [_text(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _text(value: Any, name: str) -> Any:
    """A text, as itself or in an object; an object with `content`, vLLM's form for pictures, is left as it is."""
    text = value.get("text") if isinstance(value, dict) else value
    if isinstance(text, str):
        return text
    if isinstance(value, dict) and "content" in value:
        return value
    raise ApiError(400, f"{name}: expected string, or an object with text")


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


routes = [
    *(Route(path, rerank, methods=["POST"]) for path in ("/api/rerank", "/rerank", "/v1/rerank", "/v2/rerank")),
    *(Route(path, score, methods=["POST"]) for path in ("/api/score", "/score", "/v1/score")),
]
