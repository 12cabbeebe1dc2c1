"""The root exception's own line, for what no rule knows."""

import re
from collections.abc import Iterator, Sequence

from vllama.engine.diagnosis._log import Log

_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?([A-Z]\w*(?:Error|Exception)|KeyboardInterrupt|SystemExit)(?:: ?(.*))?$")
_VALIDATION = re.compile(r"\d+ validation errors? for \w+$")
_CONSEQUENCES = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineCore encountered an issue",
    "cancelled",
    "See stack trace",
)
"""What vLLM raises because something else was raised before."""
_ENDINGS = ("CancelledError", "KeyboardInterrupt", "SystemExit")
_LONGEST = 400
"""Characters: some causes go on with a list of everything that is supported."""


def root_cause(log: Log) -> str:
    """The root exception's own words, else the last line and how the engine ended."""
    cause = next(_causes(log.errors.splitlines()), None)
    # A process that was killed did not end by what it logged before.
    if cause and log.signal is None:
        cause = cause.rstrip(".")
        return cause if len(cause) <= _LONGEST else cause[:_LONGEST] + " …"
    last = f', its last words: "{log.everything.splitlines()[-1]}"' if log.everything else ""
    return f"it {log.ending}{last}"


def _causes(texts: Sequence[str]) -> Iterator[str]:
    """The exceptions, in the order they were raised, in words for a user."""
    for position, text in enumerate(texts):
        raised = _EXCEPTION.match(text)
        if raised is None or raised[1] in _ENDINGS or (raised[2] or "").startswith(_CONSEQUENCES):
            continue
        kind, message = raised[1], raised[2] or ""
        if kind == "ValidationError" and _VALIDATION.match(message):
            yield _validation_cause(texts[position + 1 : position + 3]) or message
        elif kind == "KeyError" and " " in message:
            yield message.strip("'\"")  # a sentence, which a KeyError shows in quotes
        else:
            # One word, like a key or nothing at all, says too little alone.
            yield message if " " in message else text.removesuffix(":")


def _validation_cause(following: Sequence[str]) -> str:
    """What pydantic says below its headline: a value error, or the name of a field and what is wrong with it."""
    first, second = ([text.partition(" [type=")[0] for text in following] + ["", ""])[:2]
    if first.startswith("Value error, ") or not second:
        return first.removeprefix("Value error, ")
    return f"{first}: {second}"
