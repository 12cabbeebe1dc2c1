"""`vllama list` and `vllama ps`."""

import contextlib
import sys
from datetime import UTC, datetime
from typing import Any

import click

from vllama.cli._options import Form, form_option, print_json
from vllama.cli._table import table
from vllama.cli._words import human_size, human_time
from vllama.errors import VllamaError


@click.command("list")
@click.argument("prefix", default="", help="Only names that begin so.")
@form_option
def list_(prefix: str, form: Form) -> None:
    """List models."""
    _print("/api/tags", prefix, form, ("NAME", "ID", "SIZE", "MODIFIED"), _model)


@click.command
@click.argument("prefix", default="", help="Only names that begin so.")
@form_option
@click.option("--watch", "-w", is_flag=True, help="Show the engines while they load and answer; json: each event.")
def ps(prefix: str, form: Form, watch: bool) -> None:
    """List running models."""
    if watch:
        _watch(prefix, form)
        return
    _print("/api/ps", prefix, form, ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), _process)
    if form is Form.TEXT:
        _print_failures(prefix)


def _watch(prefix: str, form: Form) -> None:
    from vllama.cli._client import connect
    from vllama.cli._watch import print_events, watch

    with connect() as server:
        (print_events if form is Form.JSON else watch)(server, prefix)


def _print_failures(prefix: str) -> None:
    """Of models that did not load, which a server of Ollama's does not tell."""
    from vllama.cli._client import connect
    from vllama.cli._engines import fault_of

    with connect() as server, contextlib.suppress(VllamaError):
        failed = server.get("/health").get("failed")
        for engine in server.get("/api/engines")["engines"] if failed else ():
            if engine["state"] == "failed" and engine["name"].lower().startswith(prefix.lower()):
                print(fault_of(engine), file=sys.stderr)


def _print(path: str, prefix: str, form: Form, head: tuple[str, ...], row: Any) -> None:
    from vllama.cli._client import connect

    with connect() as server:
        models = server.get(path)["models"]
    chosen = [model for model in models if model["name"].lower().startswith(prefix.lower())]
    if form is Form.JSON:
        print_json({"models": chosen})
    else:
        now = datetime.now(UTC)
        print(table([head, *(row(model, now) for model in chosen)]), end="")


def _model(model: dict[str, Any], now: datetime) -> tuple[str, ...]:
    size = "-" if model.get("remote_host") else human_size(model["size"])
    return model["name"], model["digest"][:12], size, human_time(model["modified_at"], now)


def _process(model: dict[str, Any], now: datetime) -> tuple[str, ...]:
    until = model["expires_at"]
    ended = datetime.fromisoformat(until) <= now
    return (
        model["name"],
        model["digest"][:12],
        human_size(model["size"]),
        _processor(model["size"], model.get("size_vram", 0)),
        str(model.get("context_length", 0)),
        "Stopping..." if ended else human_time(until, now),
    )


def _processor(size: int, on_gpu: int) -> str:
    if not on_gpu:
        return "100% CPU"
    if on_gpu == size:
        return "100% GPU"
    if on_gpu > size:
        return "Unknown"
    cpu = round((size - on_gpu) / size * 100)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"
