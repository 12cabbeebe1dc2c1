"""The engine's refusals in words that Ollama's clients know."""

import msgspec

CONTEXT_EXCEEDED = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)


def failure_text(status: int, body: bytes) -> tuple[int, str]:
    """Status and text for a client. body: the engine's error object, `{"error": {"message", "code"}}`, or anything."""
    message, code = _message(body)
    status = code or status
    if "maximum context length" in message:
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
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = body.decode(errors="replace")
    if not isinstance(error, dict):
        return str(error)[:2000] or "no reason given", None
    code = error.get("code")
    text = error.get("message") or msgspec.json.encode(error).decode()
    return str(text)[:2000], code if isinstance(code, int) and 400 <= code < 600 else None
