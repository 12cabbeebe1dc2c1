"""The Starlette application and its lifespan."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route

from vllama.admission import Entrance
from vllama.bodies import UnreadBodyError
from vllama.dialects import dialect_of
from vllama.errors import ApiError, VllamaError
from vllama.framing import ClientLeft, HangUp
from vllama.gateway import Gateway
from vllama.progress_log import tell_loads
from vllama.routes import (
    anthropic,
    audio,
    blobs,
    cloud,
    decisions,
    embeddings,
    engines,
    health,
    inference,
    library,
    models,
    openai,
    pulls,
    ranking,
    responses,
    tokens,
    warmup,
)
from vllama.security.guard import Guard

logger = logging.getLogger("vllama")

_ENDPOINTS = (
    models,
    pulls,
    library,
    blobs,
    inference,
    embeddings,
    tokens,
    ranking,
    openai,
    responses,
    audio,
    anthropic,
    decisions,
    cloud,
    health,
    engines,
    warmup,
)
_METHODS = ("HEAD", "GET", "POST", "DELETE")
"""In the order in which Ollama's `Allow` names them."""
_EVERYONE = Guard()


def create_app(gateway: Gateway, guard: Guard = _EVERYONE) -> Starlette:
    """The gateway's HTTP side. Its lifespan loads the models to preload and, in the end, closes the scheduler."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        if gateway.standby is not None:
            gateway.standby.start()
        telling = asyncio.create_task(tell_loads(gateway.scheduler, gateway.show_loads), name="loads")
        preloading = asyncio.create_task(_preload(gateway), name="preload")
        try:
            yield
        finally:
            preloading.cancel()
            await asyncio.gather(preloading, return_exceptions=True)
            await gateway.scheduler.close()
            if gateway.standby is not None:
                await gateway.standby.close()
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    app = Starlette(
        routes=[_slashes(), *(route for module in _ENDPOINTS for route in module.routes)],
        lifespan=lifespan,
        exception_handlers={
            ApiError: _api_error,
            UnreadBodyError: _unread,
            VllamaError: _vllama_error,
            ClientLeft: _client_left,
            ClientDisconnect: _client_left,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
    )
    app.state.gateway = gateway
    app.router.redirect_slashes = False  # _slashes() does it, with Ollama's status codes
    # Around Starlette's own middleware, whose answer to an unexpected error a web page must be able to read too.
    entrance = Entrance(app.build_middleware_stack(), lambda: app.state.gateway.admission)
    app.middleware_stack = guard.before(entrance)
    return app


async def _preload(gateway: Gateway) -> None:
    for model in gateway.preload:
        # A failure is logged by the scheduler and told to whoever asks for the model.
        with contextlib.suppress(VllamaError, ApiError):
            async with gateway.scheduler.acquire(model):
                pass


def error_response(request: Request, status: int, message: str) -> Response:
    """An error in the shape of the client's dialect."""
    return dialect_of(request.scope["path"]).response(status, message)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request, error.status, error.message)


async def _unread(request: Request, error: Exception) -> Response:
    return HangUp(await _api_error(request, error))


async def _vllama_error(request: Request, error: Exception) -> Response:
    return error_response(request, 500, str(error))


async def _client_left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


def _slashes() -> Route:
    """For every path with a slash at its end: where to find it without."""
    route = Route("/{path:path}/", _redirect)
    route.methods = None
    return route


async def _redirect(request: Request) -> Response:
    """Raises HTTPException 404 where nothing is to be found for the method."""
    path = request.scope["path"][:-1]
    routes: list[BaseRoute] = request.app.routes
    found = any(route.matches({**request.scope, "path": path})[0] is Match.FULL for route in routes)
    if path.endswith("/") or not found:
        raise HTTPException(404)
    query = request.scope["query_string"].decode("latin-1")
    location = quote(path, safe="/:@") + (f"?{query}" if query else "")
    return RedirectResponse(location, 301 if request.method in ("GET", "HEAD") else 307)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, as Ollama's router answers them."""
    assert isinstance(error, HTTPException)
    if request.method == "OPTIONS":
        return Response(status_code=204)
    text = f"{error.status_code} {HTTPStatus(error.status_code).phrase.lower()}"
    if error.status_code == 404:
        text = "404 page not found"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    return PlainTextResponse(text, error.status_code, headers)


def _allowed(request: Request) -> list[str]:
    """The methods that routes of this path take: Starlette names those of the first."""
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in matching for method in route.methods}
    return [method for method in _METHODS if method in methods]


async def _unexpected(request: Request, _error: Exception) -> Response:
    # Starlette raises it again, to be logged with its traceback.
    return error_response(request, 500, "vllama failed to handle the request; its log has the details")
