"""`vllama run`: one prompt, or a chat."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from vllama.cli._options import insecure_option
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.cli._client import Server
    from vllama.cli._session import Session, Style
    from vllama.settings import Settings

_THINK: dict[str, bool | str] = {
    "true": True,
    "false": False,
    "high": "high",
    "medium": "medium",
    "low": "low",
    "max": "max",
}
_AS_GO_WRITES_THEM = {"--think": "--think=true", "--truncate=false": "--no-truncate", "--truncate=true": "--truncate"}


class _Command(click.Command):
    """Takes flags as Ollama's command does: `--think` with or without a value, `--truncate=false`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_AS_GO_WRITES_THEM.get(arg, arg) for arg in args])


@click.command(cls=_Command)
@click.argument("model", help="Model to run; pulled first where it is missing.")
@click.argument("prompt", nargs=-1, help="Prompt; without one, a chat.")
@click.option("--keepalive", help="How long the model stays loaded, like 5m.")
@click.option("--verbose", is_flag=True, help="Show timings of the answer.")
@insecure_option
@click.option("--nowordwrap", is_flag=True, help="Don't wrap words to the next line.")
@click.option("--format", "format_", default="", help="Form of the answer: json, or a JSON schema.")
@click.option("--think", metavar="[VALUE]", help="Whether to think: true, false, or high, medium, low, max.")
@click.option("--hidethinking", is_flag=True, help="Hide thinking.")
@click.option("--truncate/--no-truncate", default=None, help="Embedding models: cut input that is too long.")
@click.option("--dimensions", type=int, help="Embedding models: length of the embedding.")
def run(
    model: str,
    prompt: tuple[str, ...],
    keepalive: str | None,
    verbose: bool,
    insecure: bool,
    nowordwrap: bool,
    format_: str,
    think: str | None,
    hidethinking: bool,
    truncate: bool | None,
    dimensions: int | None,
) -> None:
    """Run a model: answer a prompt, from arguments or a pipe, or chat."""
    from vllama.cli._client import connect
    from vllama.cli._session import Style
    from vllama.settings import load

    form, thoughts = _format(format_), _think(think)
    words, piped = _words(prompt)
    settings = load()
    with connect(settings) as server:
        style = Style(wrap=not nowordwrap and not piped, hide_thinking=hidethinking, verbose=verbose)
        session = _open(server, model, style, keepalive, insecure=insecure)
        session.format = form
        if thoughts is not None:
            session.think = thoughts
        if thoughts and not session.can("thinking"):
            print(session.no_thinking, file=sys.stderr)
        if session.can("embedding"):
            _embed(server, session, words, truncate=truncate, dimensions=dimensions)
        elif words or piped or not sys.stdout.isatty():
            _generate(server, session, words)
        else:
            _chat(server, session, settings)


def _words(arguments: Sequence[str]) -> tuple[str, bool]:
    """The prompt, what a pipe brings first, and whether there is a pipe."""
    if sys.stdin is None or sys.stdin.isatty():
        return " ".join(arguments), False
    piped = sys.stdin.buffer.read().decode(errors="replace")
    return " ".join([piped, *arguments] if piped else arguments), True


def _open(server: "Server", model: str, style: "Style", keep_alive: str | None, *, insecure: bool = False) -> "Session":
    from vllama.cli._client import Refused
    from vllama.cli._session import Session
    from vllama.cli.transfer import pull_with

    try:
        shown = server.post("/api/show", {"model": model})
    except Refused as refused:
        if refused.status != 404:
            raise
        pull_with(server, model, insecure=insecure)
        shown = server.post("/api/show", {"model": model})
    session = Session(model, shown, style, keep_alive=keep_alive)
    session.think_if_it_can()
    return session


def _format(text: str) -> Any:
    from vllama.cli._session import read_format

    try:
        return read_format(text)
    except ValueError:
        raise VllamaError(f"bad value {text!r} for --format", "give json or a JSON schema") from None


def _think(text: str | None) -> bool | str | None:
    if text is not None and text not in _THINK:
        raise VllamaError(f"invalid value for --think: {text!r}", f"give one of {', '.join(_THINK)}")
    return None if text is None else _THINK[text]


def _embed(server: "Server", session: "Session", text: str, **more: Any) -> None:
    import json

    if not text:
        raise VllamaError("embedding models need a text", f'vllama run {session.model} "your text here"')
    given = {name: value for name, value in more.items() if value is not None}
    body = session.load_request() | {"input": text} | given
    (embedding,) = server.post("/api/embed", body, patient=True)["embeddings"]
    print(json.dumps(embedding, separators=(",", ":")))


def _generate(server: "Server", session: "Session", prompt: str) -> None:
    from vllama.cli._answer import Answer, ask, load_first, print_timings
    from vllama.cli._images import take_images

    images: list[str] = []
    if session.can("vision"):
        prompt, images = take_images(prompt)
    answer = Answer()
    load_first(server, session.load_request())
    ask(server, "/api/generate", session.generate_request(prompt, images), session.style, answer)
    if prompt or images:
        print("\n" if sys.stdout.isatty() else "")
    if session.style.verbose and answer.last:
        print_timings(answer.last)


def _chat(server: "Server", session: "Session", settings: "Settings") -> None:
    from vllama.cli._chat import chat

    def open_session(name: str) -> "Session":
        opened = _open(server, name, session.style, session.keep_alive)
        opened.format = session.format
        return opened

    chat(server, session, open_session, settings.home / "history")
