"""What an engine's last lines say of its end."""

import re
import signal
from collections.abc import Iterable, Iterator, Sequence

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PROCESS = re.compile(r"^\([\w.-]+( pid=\d+)?\) ?")
_LEVEL = re.compile(r"^(ERROR|CRITICAL|WARNING|INFO|DEBUG) [\d-]+ [\d:]+ \[[^\]]*\] ?")
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
_DAMAGE = re.compile(r"cannot import name|undefined symbol|\.so\b")
_LONGEST = 400
"""Characters: some causes go on with a list of everything that is supported."""


def explain(lines: Iterable[str], status: int | None) -> str:
    """One line on why an engine ended: the root exception's own words, else its last line and how it ended."""
    records = [record for line in lines if (record := _read(line))[1]]
    # What is only warned of has been dealt with.
    texts = [text for level, text in records if level not in ("WARNING", "INFO", "DEBUG")]
    refused = (text.removeprefix("vllm serve: error: ") for text in texts if text.startswith("vllm serve: error: "))
    cause = next(refused, None) or next(_causes(texts), None)
    # A process that was killed did not end by what it logged before.
    if cause and not _signal_name(status):
        cause = cause.rstrip(".")
        return cause if len(cause) <= _LONGEST else cause[:_LONGEST] + " …"
    last = f', its last words: "{records[-1][1]}"' if records else ""
    return f"it {_describe_status(status)}{last}"


def _read(line: str) -> tuple[str | None, str]:
    """A line's level, None where it is no log line, and its text."""
    text = _PROCESS.sub("", _COLOUR.sub("", line))
    level = _LEVEL.match(text)
    return (level[1], text[level.end() :].strip()) if level else (None, text.strip())


def _causes(texts: Sequence[str]) -> Iterator[str]:
    """The exceptions, in the order they were raised, in words for a user."""
    for position, text in enumerate(texts):
        raised = _EXCEPTION.match(text)
        if raised is None or raised[1] in _ENDINGS or (raised[2] or "").startswith(_CONSEQUENCES):
            continue
        kind, message = raised[1], raised[2] or ""
        if kind == "ValidationError" and _VALIDATION.match(message):
            yield _validation_cause(texts[position + 1 : position + 3]) or message
        elif kind == "ModuleNotFoundError" or (kind == "ImportError" and _DAMAGE.search(message)):
            yield f"its environment is damaged ({message}): run `vllama engine install --reinstall`"
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


def _describe_status(status: int | None) -> str:
    if status is None:
        return "was stopped"
    name = _signal_name(status)
    return f"was killed by {name}" if name else f"exited with status {status}"


def _signal_name(status: int | None) -> str | None:
    """The signal that ended a process, also as the launcher's guard tells it: like a shell, by 128 and its number."""
    if status is None or 0 <= status <= 128:
        return None
    try:
        return signal.Signals(-status if status < 0 else status - 128).name
    except ValueError:
        return None
