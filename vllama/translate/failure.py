"""The engine's refusals in words that Ollama's clients know."""

from typing import Any

import msgspec

CONTEXT_EXCEEDED = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)


_TOO_LONG = ("maximum context length", "longer than the maximum model length")


def failure_text(status: int, body: bytes) -> tuple[int, str]:
    """Status and text for a client. body: the engine's error object, `{"error": {"message", "code"}}`, or anything."""
    message, code = _message(body)
    status = code or status
    if any(text in message for text in _TOO_LONG):
        return 400, CONTEXT_EXCEEDED
    if status == 400:
        return 400, message
    if status in (429, 503):
        return 503, "server busy, please try again.  maximum pending requests exceeded"
    return 500, f"an error was encountered while running the model: {message}"


def _message(body: bytes) -> tuple[str, int | None]:
    """The text in an error, and the status where the error itself tells one."""
    try:
        error = msgspec.json.decode(body)
        if isinstance(error, dict):
            error = error.get("error", error.get("detail", error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = body.decode(errors="replace").strip()
    if not isinstance(error, dict):
        return _shorten(error or "no reason given"), None
    code = error.get("code")
    text = _shorten(error.get("message") or error)
    return text, code if isinstance(code, int) and 400 <= code < 600 else None


def _shorten(reason: Any) -> str:
    text = reason if isinstance(reason, str) else msgspec.json.encode(reason).decode()
    return text[:2000]
