"""Ollama's endpoints about its cloud and its accounts, of which this server has none."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.framing import JSONResponse
from vllama.routes._edge import cloud_disabled, get
from vllama.routes._reading import read_bytes


async def status(_request: Request) -> Response:
    """Clients offer no remote models where the cloud is disabled; a source is named, as Ollama does then."""
    return JSONResponse({"cloud": {"disabled": True, "source": "config"}})


async def recommendations(_request: Request) -> Response:
    return JSONResponse({"recommendations": []})


async def me(_request: Request) -> Response:
    raise ApiError(401, "unauthorized")


async def sign_out(_request: Request) -> Response:
    raise ApiError(401, "you are not currently signed in")


async def web(request: Request) -> Response:
    if not (await read_bytes(request)).strip():
        raise ApiError(400, "missing request body")
    operation = request.scope["path"].rpartition("/")[2].replace("_", " ")
    raise cloud_disabled(f"{operation} is unavailable")


routes = [
    get("/api/status", status),
    get("/api/experimental/model-recommendations", recommendations),
    Route("/api/me", me, methods=["POST"]),
    Route("/api/signout", sign_out, methods=["POST"]),
    Route("/api/user/keys/{key:path}", sign_out, methods=["DELETE"]),
    Route("/api/experimental/web_search", web, methods=["POST"]),
    Route("/api/experimental/web_fetch", web, methods=["POST"]),
]
