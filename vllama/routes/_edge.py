"""Where requests enter: their gateway and their models; and what several routes write alike."""

import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.gateway import Gateway
from vllama.models.model import Model
from vllama.models.names import InvalidName, parse


def get(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    """A route for GET alone: Starlette adds HEAD by itself, which Ollama has for some paths only."""
    route = Route(path, endpoint, methods=["GET"])
    route.methods = {"GET"}
    return route


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def find_model(
    request: Request,
    wanted: str,
    *,
    unknown: str = "model '{}' not found",
    remote: str = "remote model is unavailable",
) -> Model:
    """The model a client names.

    Raises ApiError 400 for an invalid name, 403 with the text `remote` for one of Ollama's cloud, 404 with the text
    `unknown` else, in which `{}` is the name as it came and `{short}` the whole of it.
    """
    if not wanted.strip():
        raise ApiError(404, unknown.format("", short=""))
    try:
        name = parse(wanted)
    except InvalidName as error:
        raise ApiError(400, str(error)) from None
    if name.is_remote:
        raise cloud_disabled(remote)
    if (model := await gateway_of(request).find(name)) is None:
        raise ApiError(404, unknown.format(wanted, short=name.short))
    if model.fault is not None:
        raise ApiError(400, str(model.fault))
    return model


def cloud_disabled(consequence: str) -> ApiError:
    """What Ollama answers where its cloud is switched off. There is none behind this server."""
    return ApiError(403, f"ollama cloud is disabled: {consequence}")


def quote(text: str) -> str:
    """Quoted as Go's %q does, for error texts that clients match on."""
    return json.dumps(text, ensure_ascii=False)
