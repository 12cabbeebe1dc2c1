"""`vllama bench`: how fast a running server answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vllama.cli._options import choice, print_json
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.bench.dialects import Dialect
    from vllama.bench.load import Level, Plan
    from vllama.bench.prompts import Prompts
    from vllama.bench.summary import Summary
    from vllama.cli._client import Server

_SECONDS = 15.0
_FEW_WORDS, _MANY_WORDS = 16, 48
_INTERRUPTED = 130


class Form(StrEnum):
    TABLE = "table"
    JSON = "json"


class Api(StrEnum):
    CHAT = "chat"
    GENERATE = "generate"


@dataclass
class Report:
    """levels: those that have begun, the last one perhaps still running."""

    head: dict[str, Any]
    levels: list["Level"] = field(default_factory=list)
    interrupted: bool = False

    def summaries(self) -> list["Summary"]:
        from vllama.bench.summary import summarize

        return [summarize(level) for level in self.levels if level.began]

    def document(self) -> dict[str, Any]:
        import msgspec

        return self.head | {"interrupted": self.interrupted, "levels": msgspec.to_builtins(self.summaries())}


@click.command
@click.argument("model", help="Model to ask; loaded first.")
@click.option(
    "--clients", default="1,8,32", show_default=True, help="How many ask at the same time, one number after another."
)
@click.option(
    "--requests", type=click.IntRange(min=1), help="Requests for each number of clients, instead of --seconds."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    help=f"How long each number of clients goes on asking ({_SECONDS:g}).",
)
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="About how long each prompt is."
)
@click.option("--tokens", type=click.IntRange(min=2), default=128, show_default=True, help="Most tokens of an answer.")
@click.option("--same-prompt", is_flag=True, help="Ask the same every time: the engine's prefix cache may know it.")
@choice(Api, "--api", meaning="/api/chat or /api/generate.")
@click.option("--url", help="Server to ask (the one of OLLAMA_HOST). OLLAMA_API_KEY is its key.")
@choice(Form, "--format", "form", meaning="table, or json, for scripts.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File to write the numbers to as well.")
def bench(
    model: str,
    clients: str,
    requests: int | None,
    seconds: float | None,
    prompt_tokens: int,
    tokens: int,
    same_prompt: bool,
    api: Api,
    url: str | None,
    form: Form,
    json_file: Path | None,
) -> None:
    """Measure how fast a server answers.

    That is: time to first token (TTFT), tokens a second, and the time between tokens (ITL). The model is loaded and
    warmed up first. Each prompt is different, unless --same-prompt is given. Ctrl-C ends it, and shows what was
    measured so far. This process needs CPU, too: where it is busy for most of the time, it says that the server may be
    faster.
    """
    counts = _counts(clients)
    if requests is not None and seconds is not None:
        raise VllamaError("there are both --requests and --seconds", "give one of them")
    if json_file is not None:
        _check(json_file)
    limit = seconds if seconds is not None or requests is not None else _SECONDS
    head = {"model": model, "api": f"/api/{api}", "same_prompt": same_prompt}
    with _connect(url) as server:
        _load(server, model)
        prompts = _prompts(server, model, api, prompt_tokens, same=same_prompt)
        plan = _plan(server, model, api, prompts, tokens=tokens, requests=requests, seconds=limit)
    report = Report({"url": plan.target.url} | head)
    _measure(plan, counts, report)
    _show(report, form, json_file)


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise VllamaError(f"bad value {text!r} for --clients", "give numbers like 1,8,32")
    return counts


def _connect(url: str | None) -> "Server":
    import os

    from vllama.cli._address import named_url
    from vllama.cli._client import Server, connect

    if url is None:
        return connect()
    return Server(named_url(url, "--url"), os.environ.get("OLLAMA_API_KEY", ""))


def _load(server: "Server", model: str) -> None:
    """Load the model, and show how far that is; a server of Ollama's does not tell."""
    from vllama.cli._client import Refused
    from vllama.cli._loading import show_load

    try:
        with show_load(brief=True) as show, server.stream("/api/warmup", {"model": model}) as chunks:
            for chunk in chunks:
                show(chunk)
    except Refused as refused:
        if refused.status != 404 or "page not found" not in str(refused):
            raise
        server.post("/api/generate", {"model": model}, patient=True)


def _dialect(api: Api) -> "Dialect":
    from vllama.bench.dialects import CHAT, GENERATE

    return CHAT if api is Api.CHAT else GENERATE


def _prompts(server: "Server", model: str, api: Api, tokens: int, *, same: bool) -> "Prompts":
    """Of about so many tokens: how many a word has, and the template, two short prompts tell."""
    from vllama.bench.prompts import Prompts, words_for

    dialect = _dialect(api)

    def count(words: int) -> tuple[int, int]:
        body = {"model": model} | dialect.body(Prompts(words).next(), 1)
        with server.stream(dialect.path, body) as chunks:
            return words, next((int(chunk["prompt_eval_count"]) for chunk in chunks if chunk.get("done")), words)

    return Prompts(words_for(tokens, count(_FEW_WORDS), count(_MANY_WORDS)), same=same)


def _plan(
    server: "Server", model: str, api: Api, prompts: "Prompts", *,
    tokens: int, requests: int | None, seconds: float | None,
) -> "Plan":  # fmt: skip
    import json

    from vllama.bench.connection import Target
    from vllama.bench.load import Plan

    dialect = _dialect(api)

    def make(most: int) -> bytes:
        return json.dumps({"model": model} | dialect.body(prompts.next(), most)).encode()

    return Plan(Target(server.url, server.key), dialect, make, tokens, requests, seconds)


def _measure(plan: "Plan", counts: list[int], report: Report) -> None:
    """Fills the report; Ctrl-C ends it early."""
    import asyncio

    import uvloop

    from vllama.bench.load import Level, run
    from vllama.cli._bench import show_levels

    async def measure(ended: Callable[[Level], None]) -> None:
        for count in counts:
            level = Level(count)
            report.levels.append(level)
            await run(plan, level)
            ended(level)

    try:
        with show_levels(report.levels, plan) as ended, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(ended))
    except KeyboardInterrupt:
        report.interrupted = True


def _show(report: Report, form: Form, path: Path | None) -> None:
    """Ends with a status that tells whether anything was measured."""
    import json
    import sys

    from vllama.cli._bench import notes, rows
    from vllama.cli._table import table

    found, document = report.summaries(), report.document()
    if form is Form.JSON:
        print_json(document)
    elif found:
        print(table(rows(found), gap=2), end="")
    for note in notes(found, interrupted=report.interrupted):
        print(note, file=sys.stderr)
    if path is not None:
        with _written(path):
            path.write_text(json.dumps(document, indent=2) + "\n")
    if report.interrupted:
        raise click.exceptions.Exit(_INTERRUPTED)
    if not any(level.requests for level in found):
        raise VllamaError("no request was answered", "what was said is above")


def _check(path: Path) -> None:
    """Before anything is measured, as what cannot be written then would be lost. What is there stays until then."""
    with _written(path):
        path.open("a").close()


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VllamaError(f"{path} cannot be written ({error.strerror})", "name another file for --json") from None
