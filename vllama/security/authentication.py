"""Requests without a valid API key are refused, in the words of their own protocol."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from vllama.routes._dialects import dialect_of
from vllama.security.keys import any_valid, sent_keys

_OPEN_PATHS = ("/", "/api/version", "/health")
"""What tells whether the gateway is up, and nothing about its models' use."""

_MISSING = (
    "unauthorized: this server needs an API key: send it as 'Authorization: Bearer KEY', "
    "which Ollama's clients do with OLLAMA_API_KEY"
)
_WRONG = "unauthorized: the API key that was sent is not one of this server's: ask its operator for one"


class Authentication:
    """Asks for one of the keys whose digests it knows. CORS preflights carry none and are answered before."""

    def __init__(self, app: ASGIApp, digests: Iterable[bytes]) -> None:
        self._app = app
        self._digests = tuple(digests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_open(scope):
            await self._app(scope, receive, send)
            return
        sent = list(sent_keys(scope["headers"]))
        if any_valid(sent, self._digests):
            await self._app(scope, receive, send)
            return
        refusal = dialect_of(scope["path"]).response(401, _WRONG if sent else _MISSING, {"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] == "OPTIONS":
        return True
    return scope["method"] in ("GET", "HEAD") and scope["path"] in _OPEN_PATHS
