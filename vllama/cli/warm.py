"""`vllama warm`: load a model before it is asked."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.cli._client import Server


@click.command
@click.argument("model", help="Model to load.")
@click.option("--keepalive", help="How long the model stays loaded, like 5m.")
def warm(model: str, keepalive: str | None) -> None:
    """Load a model, so that its first answer does not wait for that."""
    from vllama.cli._client import connect
    from vllama.cli._engines import short_name
    from vllama.cli._loading import show_load

    body = {"model": model} | ({"keep_alive": keepalive} if keepalive else {})
    with connect() as server:
        with show_load() as show:
            seconds = _load(server, body, show)
        print(f"{short_name(model)} is ready ({seconds:.1f} s{_memory(server, model)})")


def _load(server: "Server", body: dict[str, Any], show: Any) -> float:
    from vllama.cli._client import Refused

    try:
        with server.stream("/api/warmup", body) as chunks:
            for chunk in chunks:
                show(chunk)
                if chunk.get("status") == "success":
                    return float(chunk["total_duration"] / 1e9)
    except Refused as refused:
        if refused.status == 404 and "page not found" in str(refused):
            raise VllamaError(
                "this server cannot load a model ahead of its first request", "`vllama warm` needs a vLLama server"
            ) from None
        raise
    raise VllamaError(f"the server stopped before {body['model']} was loaded", "look at its log")


def _memory(server: "Server", model: str) -> str:
    """On a terminal, what the engine took."""
    from vllama.cli._engines import engine_of
    from vllama.cli._words import human_size

    if sys.stderr.isatty():
        with contextlib.suppress(VllamaError):
            engine = engine_of(server, model)
            if engine is not None and engine["memory"]:
                return f", {human_size(engine['memory'])}"
    return ""
