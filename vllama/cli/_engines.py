"""What a vLLama server tells of its engines."""

from typing import TYPE_CHECKING, Any

from vllama.models.names import is_valid, parse

if TYPE_CHECKING:
    from vllama.cli._client import Server

Engine = dict[str, Any]


def short_name(model: str) -> str:
    return parse(model).short if is_valid(model) else model


def fault_of(engine: Engine) -> str:
    """Its last failure, with its name, which most failures tell themselves."""
    name, error = engine["name"], engine["error"]
    return error if not error or name in error else f"{name}: {error}"


def engine_of(server: "Server", model: str) -> Engine | None:
    """The engine that serves a model, or is to. Raises Refused where the server, like Ollama's, tells of none."""
    wanted = short_name(model).lower()
    engines: list[Engine] = server.get("/api/engines")["engines"]
    return next((one for one in engines if wanted in map(str.lower, (one["name"], *one["models"]))), None)
