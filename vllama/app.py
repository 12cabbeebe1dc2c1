"""The Starlette application and its lifespan."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from vllama.errors import ApiError, VllamaError
from vllama.framing import ClientLeft
from vllama.gateway import Gateway
from vllama.routes import anthropic, health, inference, models, openai
from vllama.routes._dialects import dialect_of

logger = logging.getLogger("vllama")

_METHODS = ("HEAD", "GET", "POST", "DELETE")
"""In the order in which Ollama's `Allow` names them."""


def create_app(gateway: Gateway) -> Starlette:
    """The gateway's HTTP side. Its lifespan loads the model to preload and, in the end, closes the scheduler."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        preloading = asyncio.create_task(_preload(gateway), name="preload")
        try:
            yield
        finally:
            preloading.cancel()
            await asyncio.gather(preloading, return_exceptions=True)
            await gateway.scheduler.close()

    app = Starlette(
        routes=[*models.routes, *inference.routes, *openai.routes, *anthropic.routes, *health.routes],
        lifespan=lifespan,
        exception_handlers={
            ApiError: _api_error,
            VllamaError: _vllama_error,
            ClientLeft: _client_left,
            ClientDisconnect: _client_left,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
    )
    app.state.gateway = gateway
    return app


async def _preload(gateway: Gateway) -> None:
    if gateway.preload is None:
        return
    # A failure is logged by the scheduler and told to whoever asks for the model.
    with contextlib.suppress(VllamaError, ApiError):
        async with gateway.scheduler.acquire(gateway.preload):
            pass


def error_response(request: Request, status: int, message: str) -> Response:
    """An error in the shape of the client's dialect."""
    return dialect_of(request.url.path).response(status, message)


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request, error.status, error.message)


def _vllama_error(request: Request, error: Exception) -> Response:
    return error_response(request, 500, str(error))


def _client_left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)


def _http_error(_request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, as Ollama's router answers them."""
    assert isinstance(error, HTTPException)
    text = f"{error.status_code} {HTTPStatus(error.status_code).phrase.lower()}"
    if error.status_code == 404:
        text = "404 page not found"
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", "), key=_METHODS.index))
    return PlainTextResponse(text, error.status_code, headers=headers)


def _unexpected(request: Request, _error: Exception) -> Response:
    # Starlette raises it again, to be logged with its traceback.
    return error_response(request, 500, "vllama failed to handle the request; its log has the details")
