"""Whether the gateway is up."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.engine.engine import State
from vllama.framing import JSONResponse
from vllama.routes._edge import gateway_of


async def health(request: Request) -> Response:
    """200 as long as the gateway answers.

    `loaded` names the models that are ready, `loading` those that will be, `failed` those whose last load or engine
    failed: why is for those to know who may ask for the engines.
    """
    scheduler = gateway_of(request).scheduler
    entries = scheduler.loaded()
    named = {
        field: [entry.model.name.short for entry in entries if entry.state is state]
        for field, state in (("loaded", State.READY), ("loading", State.STARTING))
    }
    failed = (name for report in scheduler.reports() if report.state is State.FAILED for name in report.names)
    named["failed"] = [name for name in failed if name not in named["loading"]]
    return JSONResponse({"status": "ok", **named})


routes = [Route("/health", health, methods=["GET"])]
