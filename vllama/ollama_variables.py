"""Settings from Ollama's own variables."""

import os
import re
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from vllama.translate.duration import parse_seconds


class OllamaSource(PydanticBaseSettingsSource):
    """What Ollama's own variables mean for us, so that a machine set up for Ollama needs nothing new."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if host := _ollama_variable("OLLAMA_HOST"):
            values["host"], values["port"] = parse_ollama_host(host)
        for variable, field in (
            ("OLLAMA_KEEP_ALIVE", "keep_alive"),
            ("OLLAMA_LOAD_TIMEOUT", "load_timeout"),
        ):
            if (duration := _duration_or_none(_ollama_variable(variable))) is not None:
                values[field] = duration
        # Ollama reads what it cannot parse, and 0, as "not set" for these.
        for variable, field in (
            ("OLLAMA_CONTEXT_LENGTH", "max_model_len"),
            ("OLLAMA_MAX_LOADED_MODELS", "max_loaded_models"),
            ("OLLAMA_MAX_QUEUE", "max_queue"),
        ):
            if (number := _ollama_variable(variable)).isdecimal() and int(number):
                values[field] = number
        if origins := _ollama_variable("OLLAMA_ORIGINS"):
            values["origins"] = origins
        if _ollama_variable("OLLAMA_DEBUG") not in ("", "0", "f", "F", "false", "FALSE", "False"):
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


def _ollama_variable(name: str) -> str:
    return os.environ.get(name, "").strip().strip("\"'").strip()


def _duration_or_none(text: str) -> float | None:
    try:
        return parse_seconds(text)
    except ValueError:
        return None
