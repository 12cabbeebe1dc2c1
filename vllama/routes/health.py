"""Whether the gateway is up."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.framing import JSONResponse
from vllama.routes._edge import gateway_of


async def health(request: Request) -> Response:
    """200 as long as the gateway answers; `loaded` names the models in memory."""
    loaded = [entry.model.name.short for entry in gateway_of(request).scheduler.loaded()]
    return JSONResponse({"status": "ok", "loaded": loaded})


routes = [Route("/health", health, methods=["GET"])]
