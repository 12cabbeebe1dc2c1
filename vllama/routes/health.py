"""Whether the gateway is up."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.engine.engine import State
from vllama.framing import JSONResponse
from vllama.routes._edge import gateway_of


async def health(request: Request) -> Response:
    """200 as long as the gateway answers; `loaded` names the models that are ready, `loading` those that will be."""
    entries = gateway_of(request).scheduler.loaded()
    named = {
        field: [entry.model.name.short for entry in entries if entry.state is state]
        for field, state in (("loaded", State.READY), ("loading", State.STARTING))
    }
    return JSONResponse({"status": "ok", **named})


routes = [Route("/health", health, methods=["GET"])]
