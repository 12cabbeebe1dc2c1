"""An answer as a person sees it while it comes."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from vllama.cli._session import Style
from vllama.cli._words import go_duration
from vllama.cli._wrap import Wrapper, harmless
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.cli._client import Server

_BOLD_GREY, _GREY, _RESET = "\x1b[90m\x1b[1m", "\x1b[90m", "\x1b[0m"
_LONG_S = 4.0
_LONG = "waiting: the model is loading, or busy"


@dataclass
class Answer:
    """What was said before it ended or was stopped. last: the chunk with the timings."""

    content: str = ""
    thinking: str = ""
    last: dict[str, Any] | None = None


@contextmanager
def waiting() -> Iterator[ExitStack]:
    """A spinner until the stack is closed, on a terminal; after a while it says what it is for."""
    with ExitStack() as stack:
        if sys.stderr.isatty():
            from rich.console import Console

            status = stack.enter_context(Console(stderr=True).status("", spinner_style=""))
            explain = threading.Timer(_LONG_S, status.update, [_LONG])
            explain.start()
            stack.callback(explain.cancel)
        yield stack


def load_first(server: "Server", body: dict[str, Any]) -> None:
    """On a terminal, load the model and show how far that is; a server that cannot, as Ollama's, does it later."""
    from vllama.cli._client import Refused
    from vllama.cli._loading import show_load

    if not sys.stderr.isatty():
        return
    try:
        with show_load(brief=True) as show, server.stream("/api/warmup", body) as chunks:
            for chunk in chunks:
                show(chunk)
    except Refused as refused:
        if refused.status != 404:
            raise


def ask(server: "Server", path: str, body: dict[str, Any], style: Style, answer: Answer) -> None:
    """Print the answer to a request while it comes, and keep it in `answer`."""
    with _Printer(style) as printer, waiting() as spinner, server.stream(path, body) as chunks:
        for chunk in chunks:
            thinking, content = _parts(chunk)
            if thinking or content:
                spinner.close()
            answer.thinking += thinking
            answer.content += content
            printer.think(thinking)
            printer.say(content)
            if chunk.get("done"):
                answer.last = chunk


def print_timings(last: dict[str, Any]) -> None:
    """The durations and rates of an answer's last chunk, in Ollama's words."""
    rows = {
        "total duration": _duration(last, "total_duration"),
        "load duration": _duration(last, "load_duration"),
        "prompt eval count": _tokens(last, "prompt_eval_count"),
        "prompt eval duration": _duration(last, "prompt_eval_duration"),
        "prompt eval rate": _rate(last, "prompt_eval_count", "prompt_eval_duration"),
        "eval count": _tokens(last, "eval_count"),
        "eval duration": _duration(last, "eval_duration"),
        "eval rate": _rate(last, "eval_count", "eval_duration"),
    }
    for name, value in rows.items():
        if value:
            print(f"{name + ':':<21} {value}", file=sys.stderr)


class _Printer:
    """Thinking is set apart: in grey on a terminal, between two lines anywhere."""

    def __init__(self, style: Style) -> None:
        self._terminal = sys.stdout.isatty()
        self._style = style
        self._began = False
        self._thinking = ""
        self._wrapper = self._new_wrapper()

    def think(self, text: str) -> None:
        if not text or self._style.hide_thinking:
            return
        if not self._thinking:
            self._write(self._coloured(_BOLD_GREY, "Thinking...\n") + (_GREY if self._terminal else ""))
        self._thinking += text
        self._show(text)

    def say(self, text: str) -> None:
        if text:
            self._close_thinking()
            self._show(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._close_thinking()
        elif self._began and issubclass(kind, VllamaError | KeyboardInterrupt):
            self._write((_RESET if self._terminal else "") + "\n")

    def _close_thinking(self) -> None:
        if not self._thinking:
            return
        line_end = "" if self._thinking.endswith("\n") else "\n"
        self._write(line_end + self._coloured(_BOLD_GREY, "...done thinking.\n\n"))
        self._thinking = ""
        self._wrapper = self._new_wrapper()

    def _show(self, text: str) -> None:
        if self._terminal:
            text = harmless(text)
        self._write(self._wrapper.feed(text) if self._wrapper else text)

    def _new_wrapper(self) -> Wrapper | None:
        return Wrapper() if self._terminal and self._style.wrap else None

    def _coloured(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._terminal else text

    def _write(self, text: str) -> None:
        self._began = True
        print(text, end="", flush=True)


def _parts(chunk: dict[str, Any]) -> tuple[str, str]:
    """Of a chunk of generate, or of chat."""
    message = chunk.get("message") or {"content": chunk.get("response"), "thinking": chunk.get("thinking")}
    return message.get("thinking") or "", message.get("content") or ""


def _duration(last: dict[str, Any], name: str) -> str:
    return go_duration(last[name]) if last.get(name) else ""


def _tokens(last: dict[str, Any], name: str) -> str:
    return f"{last[name]} token(s)" if last.get(name) else ""


def _rate(last: dict[str, Any], count: str, duration: str) -> str:
    return f"{last.get(count, 0) / last[duration] * 1e9:.2f} tokens/s" if last.get(duration) else ""
