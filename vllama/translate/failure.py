"""The engine's refusals in words that Ollama's clients know, or at least in plain ones."""

import ast
import re
from typing import Any

import msgspec

from vllama.overload import BUSY

CONTEXT_EXCEEDED = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)

UNTRUSTED_TEMPLATE = (
    "Chat template is passed with request, but --trust-request-chat-template is not set. "
    "Refused request with untrusted chat template: leave it out, give a model this TEMPLATE in a Modelfile, "
    "or start the server with `vllama serve … -- --trust-request-chat-template`"
)

_TOO_LONG = ("maximum context length", "longer than the maximum model length", "exceeds the max_model_len")

_INABILITIES = {
    "chat template is no longer allowed": "the model has no chat template: use /v1/completions, or /api/generate",
    "suffix is only supported for models": "the model does not support insert",
    "untrusted chat template": UNTRUSTED_TEMPLATE,
    "is not a multimodal model": "the model does not support images or sound",
}
"""What only the engine knows of a model of which the gateway knows nothing, or of how it was started."""

_PARAMETER = re.compile(r" \(parameter=\w+(, value=|\)$)")
_LISTED = re.compile(r"^ +(\{'type': .*\})$", re.MULTILINE)
_PRINTED = re.compile(r"^(\S+)\n +(.+?) \[type=(\w+)", re.MULTILINE)
_MOST_ALTERNATIVES = 6


def failure_text(status: int, body: bytes) -> tuple[int, str]:
    """Status and text for a client. body: the engine's error object, `{"error": {"message", "code"}}`, or anything."""
    message, code = _message(body)
    status = code or status
    if any(text in message for text in _TOO_LONG):
        return 400, CONTEXT_EXCEEDED
    if status in (400, 501):  # or what was asked for is nothing that this model can do
        return 400, _shorten(_plain(message))
    if status in (429, 503):
        return 503, BUSY
    return 500, f"an error was encountered while running the model: {_shorten(message)}"


def _message(body: bytes) -> tuple[str, int | None]:
    """The text in an error, and the status where the error itself tells one."""
    try:
        error = msgspec.json.decode(body)
        if isinstance(error, dict):
            error = error.get("error", error.get("detail", error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = body.decode(errors="replace").strip()
    if not isinstance(error, dict):
        return _text(error or "no reason given"), None
    code = error.get("code")
    text = _text(error.get("message") or error)
    return text, code if isinstance(code, int) and 400 <= code < 600 else None


def _text(reason: Any) -> str:
    return reason if isinstance(reason, str) else msgspec.json.encode(reason).decode()


def _shorten(text: str) -> str:
    return text[:2000]


def _plain(message: str) -> str:
    """A refusal without what only the engine's own programmers can read."""
    if "validation error" in message.partition("\n")[0]:
        return _first_complaint(message)
    if message.startswith("Grammar error: "):
        return f"the format cannot be followed: {_grammar_reason(message.removeprefix('Grammar error: '))}"
    for sign, text in _INABILITIES.items():
        if sign in message:
            return text
    named = _PARAMETER.search(message) if message.endswith(")") else None
    return message[: named.start() if named else None].partition(": {'")[0]


def _grammar_reason(reason: str) -> str:
    """One line: of a regular expression that cannot be read, which it is and why, without the picture of where."""
    if cause := re.search(r"^error: (.+)$", reason, re.MULTILINE):
        return f"{reason.partition(': regex parse error')[0]}: {cause[1]}"
    return " ".join(reason.split())


def _first_complaint(message: str) -> str:
    """What is wrong with the member that a list of validation errors is about, as `member: what was expected`.

    Where a member may be one of several things, the list holds an error for each: those about the deepest member are
    taken, and among them rather what is wrong than what is missing, since another kind of object would not miss it.
    """
    complaints = [(_place(place), kind, text) for place, kind, text in _complaints(message)]
    complaints = [one for one in complaints if one[1] != "missing"] or complaints
    if not complaints:
        return message
    place = max((place for place, _, _ in complaints), key=lambda place: place.count(".") + place.count("["))
    texts = list(dict.fromkeys(_expectation(text) for where, _, text in complaints if where == place))
    return f"{place}: {' or '.join(texts[:_MOST_ALTERNATIVES]).replace(' or expected ', ' or ')}"


def _complaints(message: str) -> list[tuple[str, str, str]]:
    """(place, kind, text) of each error: pydantic's, printed by itself or as the engine lists them."""
    listed = []
    for match in _LISTED.finditer(message):
        try:
            # Not what the client sent, which may be all of its body.
            told, cut, _ = match[1].partition(", 'input': ")
            entry = ast.literal_eval(told + "}" if cut else told)
            listed.append((str(entry["loc"]), str(entry["type"]), str(entry["msg"])))
        except (ValueError, SyntaxError, KeyError, MemoryError, RecursionError):
            continue
    return listed or [(match[1], match[3], match[2]) for match in _PRINTED.finditer(message)]


def _place(location: str) -> str:
    """`body.tools.0.FunctionTool.type` as `tools[0].type`: names of classes are left out."""
    steps = [step for step in location.removeprefix("body.").split(".") if not step[:1].isupper() and "[" not in step]
    place = "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in steps)
    return place.removeprefix(".") or "the request's body"


def _expectation(text: str) -> str:
    text = text.removeprefix("Value error, ")
    if text == "Field required":
        return "required"
    text = re.sub(r"^Input should be (a valid )?", "expected ", text).partition(", unable to ")[0]
    return text.replace("expected dictionary", "expected object").replace("expected list", "expected array")
