"""What an engine's last lines say of its end."""

import re
import signal
from collections.abc import Iterable

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(r"^(\([\w.-]+( pid=\d+)?\) ?)?((ERROR|WARNING|INFO) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?([A-Z]\w*(?:Error|Exception|Interrupt|Exit)): (.+)")
_CONSEQUENCES = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "cancelled",
    "See stack trace",
)
"""What vLLM raises because something else was raised before."""


def explain(lines: Iterable[str], status: int | None) -> str:
    """One line on why an engine ended: the root exception's own words, else its last line and how it ended."""
    texts = [text for line in lines if (text := _PREFIX.sub("", _COLOUR.sub("", line)).strip())]
    for text in texts:
        if text.startswith("vllm serve: error: "):
            return text.removeprefix("vllm serve: error: ")
    raised = [match for text in texts if (match := _EXCEPTION.match(text))]
    causes = [match for match in raised if not match[2].startswith(_CONSEQUENCES)]
    if causes:
        cause = causes[0]
        if cause[1] in ("ModuleNotFoundError", "ImportError"):
            return f"its environment is damaged ({cause[2]}): run `vllama engine install --reinstall`"
        return cause[2]
    last = f', its last words: "{texts[-1]}"' if texts else ""
    return f"it {_describe_status(status)}{last}"


def _describe_status(status: int | None) -> str:
    if status is None:
        return "was stopped"
    # The launcher's guard reports a signal as a shell does.
    number = -status if status < 0 else status - 128
    if number > 0:
        try:
            return f"was killed by {signal.Signals(number).name}"
        except ValueError:
            pass
    return f"exited with status {status}"
