"""Settings from Ollama's own variables."""

import re
from collections.abc import Mapping
from typing import Any

from vllama.translate.duration import parse_seconds

ALIASES = {
    "host": "OLLAMA_HOST",
    "port": "OLLAMA_HOST",
    "keep_alive": "OLLAMA_KEEP_ALIVE",
    "load_timeout": "OLLAMA_LOAD_TIMEOUT",
    "max_model_len": "OLLAMA_CONTEXT_LENGTH",
    "max_loaded_models": "OLLAMA_MAX_LOADED_MODELS",
    "max_queue": "OLLAMA_MAX_QUEUE",
    "origins": "OLLAMA_ORIGINS",
    "log_level": "OLLAMA_DEBUG",
}
"""Of settings, the variables of Ollama's that mean the same."""


def ollama_values(environ: Mapping[str, str]) -> dict[str, Any]:
    """What Ollama's own variables mean for us, so that a machine set up for Ollama needs nothing new."""

    def given(name: str) -> str:
        return environ.get(ALIASES[name], "").strip().strip("\"'").strip()

    values: dict[str, Any] = {}
    if host := given("host"):
        values["host"], values["port"] = parse_ollama_host(host)
    for name in ("keep_alive", "load_timeout"):
        if (duration := _duration_or_none(given(name))) is not None:
            values[name] = duration
    # Ollama reads what it cannot parse, and 0, as "not set" for these.
    for name in ("max_model_len", "max_loaded_models", "max_queue"):
        if (text := given(name)).isdecimal() and (number := int(text)):
            values[name] = number
    if origins := given("origins"):
        values["origins"] = origins
    if given("log_level") not in ("", "0", "f", "F", "false", "FALSE", "False"):
        values["log_level"] = "debug"
    return values


def parse_ollama_host(text: str) -> tuple[str, int]:
    """Ollama's `[scheme://]host[:port][/path]`; `:1234` listens on all interfaces, a bad port is the default one."""
    scheme, _, rest = text.rpartition("://")
    default_port = {"http": 80, "https": 443}.get(scheme, 11434)
    rest = rest.partition("/")[0]
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]") or (":" in host and not host.endswith("]")):  # a bare IPv6 address has no port
        host, port = rest, ""
    number = int(port) if re.fullmatch("[0-9]{1,5}", port) and int(port) <= 65535 else default_port
    bare = host.removeprefix("[").removesuffix("]")
    return bare or ("0.0.0.0" if colon else "127.0.0.1"), number  # noqa: S104


def _duration_or_none(text: str) -> float | None:
    try:
        return parse_seconds(text)
    except ValueError:
        return None
