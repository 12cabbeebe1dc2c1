"""How each of the three protocols says what went wrong: before a reply begins, and in the middle of a stream."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama.framing import JSONResponse

_OPENAI_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_PAUSE_S = 5
"""At most, until a client is to come again: most requests end within that, and clients that stand by it wait for no
longer than a person would. When within it is drawn by lot: those who are refused together are not to return together.
"""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Dialect:
    """One protocol's errors. body: the object for a status and a message. event: names error events in a stream."""

    body: Callable[[int, str], dict[str, Any]]
    event: str = ""

    def response(self, status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        body, headers = self.body(status, message), dict(headers or {})
        if "request_id" in body:
            headers["request-id"] = body["request_id"]
        if status == 503:
            headers["Retry-After"] = str(1 + secrets.randbelow(_PAUSE_S))
        return JSONResponse(body, status, headers)

    def error_event(self, status: int, message: str) -> bytes:
        """The Server-Sent Event that ends a stream which cannot go on."""
        name = f"event: {self.event}\n".encode() if self.event else b""
        return name + b"data: " + _encode(self.body(status, message)) + b"\n\n"


def _openai(status: int, message: str) -> dict[str, Any]:
    """With the types that Ollama gives."""
    kind = _OPENAI_TYPES.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _anthropic(status: int, message: str) -> dict[str, Any]:
    error = {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message}
    return {"type": "error", "error": error, "request_id": new_request_id()}


def new_request_id() -> str:
    """As Anthropic's clients show them, and read them from a reply's `request-id` header."""
    return f"req_{secrets.token_hex(12)}"


OLLAMA = Dialect(lambda _status, message: {"error": message})
OPENAI = Dialect(_openai)
ANTHROPIC = Dialect(_anthropic, event="error")


def dialect_of(path: str) -> Dialect:
    """The protocol to which a path belongs."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    return OPENAI if path.startswith("/v1/") else OLLAMA
