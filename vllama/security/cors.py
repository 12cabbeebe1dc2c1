"""Cross-origin requests: a web page of an origin that is not allowed is refused, not only kept from reading replies."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllama.security.origins import Origins
from vllama.security.refusals import Refusals

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_OPENAI_CLIENTS = (
    *("Arch", "Async", "Custom-Poll-Interval", "Helper-Method", "Lang", "Os", "Package-Version", "Poll-Helper"),
    *("Retry-Count", "Runtime", "Runtime-Version", "Timeout"),
)
_HEADERS = (
    *("Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "Openai-Beta"),
    *(f"X-Stainless-{name}" for name in _OPENAI_CLIENTS),
    # Ollama leaves these out, and with them Anthropic's client for browsers.
    *("X-Api-Key", "Anthropic-Version", "Anthropic-Beta", "Anthropic-Dangerous-Direct-Browser-Access"),
)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": ",".join(_METHODS),
    "Access-Control-Allow-Headers": ",".join(_HEADERS),
    "Access-Control-Max-Age": "43200",
}


class Cors:
    """Lets in the pages of some origins, and everything that is no page of another origin."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin, host = headers.get("origin"), headers.get("host")
        if not origin or origin in (f"http://{host}", f"https://{host}"):
            await self._app(scope, receive, send)
        elif not self._origins.all and origin not in self._origins:
            self._refusals.note(
                f"refused a page of {origin[:200]!r}: if it may use this server, add it to OLLAMA_ORIGINS"
            )
            await Response(status_code=403)(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await self._preflight(origin)(scope, receive, send)
        else:
            await self._app(scope, receive, self._tell(origin, send))

    def _preflight(self, origin: str) -> Response:
        """The answer for every path: what is asked for is not looked at."""
        response = Response(status_code=204, headers=_PREFLIGHT)
        self._allow(origin, response.headers)
        if not self._origins.all:
            for header in ("Access-Control-Request-Method", "Access-Control-Request-Headers"):
                response.headers.add_vary_header(header)
        return response

    def _tell(self, origin: str, send: Send) -> Send:
        """A `send` whose replies, errors too, the page may read."""

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._allow(origin, MutableHeaders(scope=message))
            await send(message)

        return telling

    def _allow(self, origin: str, headers: MutableHeaders) -> None:
        headers["Access-Control-Allow-Origin"] = "*" if self._origins.all else origin
        if not self._origins.all:
            headers.add_vary_header("Origin")
