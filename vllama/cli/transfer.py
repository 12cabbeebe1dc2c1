"""`vllama pull` and `vllama push`."""

from typing import TYPE_CHECKING, Any

import click

from vllama.cli._options import insecure_option
from vllama.cli._steps import Show, Step, show_transfer

if TYPE_CHECKING:
    from vllama.cli._client import Server


@click.command
@click.argument("model", help="Model to pull.")
@insecure_option
def pull(model: str, insecure: bool) -> None:
    """Pull a model from Ollama's library or from Hugging Face."""
    from vllama.cli._client import connect

    with connect() as server:
        pull_with(server, model, insecure=insecure)


@click.command
@click.argument("model", help="Model to push.")
@insecure_option
def push(model: str, insecure: bool) -> None:
    """Push a model to a private Hugging Face repository of its name."""
    from vllama.cli._client import connect

    with connect() as server, show_transfer() as show:
        follow(server, "/api/push", {"model": model, "insecure": insecure}, show)


def pull_with(server: "Server", model: str, *, insecure: bool = False) -> None:
    with show_transfer() as show:
        follow(server, "/api/pull", {"model": model, "insecure": insecure}, show)


def follow(server: "Server", path: str, body: Any, show: Show) -> None:
    """Show an answer's progress until its end."""
    with server.stream(path, body) as chunks:
        for chunk in chunks:
            show(Step(chunk.get("status", ""), chunk.get("total") or 0, chunk.get("completed") or 0))
