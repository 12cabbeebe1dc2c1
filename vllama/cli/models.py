"""`vllama cp`, `vllama rm` and `vllama stop`."""

import contextlib
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.cli._client import Server


@click.command
@click.argument("source", help="Model to copy.")
@click.argument("destination", help="Name of the copy.")
def cp(source: str, destination: str) -> None:
    """Copy a model."""
    from vllama.cli._client import connect

    with connect() as server:
        server.post("/api/copy", {"source": source, "destination": destination})
    print(f"copied '{source}' to '{destination}'")


@click.command
@click.argument("models", nargs=-1, required=True, help="Models to remove.")
def rm(models: tuple[str, ...]) -> None:
    """Remove models."""
    from vllama.cli._client import Refused, connect

    with connect() as server:
        for model in models:
            # Deleting says what is wrong with a name, and must be possible for what cannot be loaded.
            with contextlib.suppress(Refused):
                _unload(server, model)
            server.delete("/api/delete", {"model": model})
            print(f"deleted '{model}'")


@click.command
@click.argument("model", help="Model to stop.")
def stop(model: str) -> None:
    """Stop a running model."""
    from vllama.cli._client import Refused, connect

    with connect() as server:
        try:
            _unload(server, model)
        except Refused as refused:
            if refused.status == 404:
                raise VllamaError(f'couldn\'t find model "{model}" to stop') from None
            raise
        if _is_kept(server, model):
            print(f"{model} stays loaded: the server was started with --pin or --keep-warm for it", file=sys.stderr)


def _is_kept(server: "Server", model: str) -> bool:
    """Whether it is to stay for ever, though it was just to go."""
    from vllama.cli._engines import short_name
    from vllama.cli._words import human_time

    loaded = {one["name"].lower(): one["expires_at"] for one in server.get("/api/ps")["models"]}
    until = loaded.get(short_name(model).lower())
    return until is not None and human_time(until, datetime.now(UTC)) == "Forever"


def _unload(server: "Server", model: str) -> None:
    server.post("/api/generate", {"model": model, "keep_alive": 0})
