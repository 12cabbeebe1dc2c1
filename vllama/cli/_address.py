"""Where the server is that commands talk to: where `vllama serve` would listen with the same settings."""

import ipaddress
import os
import re

from vllama.errors import VllamaError
from vllama.ollama_variables import parse_ollama_host
from vllama.settings import Settings

_SCHEME = re.compile(r"(https?)://[^/]*(/.*)?")


def server_url(settings: Settings) -> str:
    """`OLLAMA_HOST` may add what only a client needs: https, and a path."""
    scheme, path = "http", ""
    named = _SCHEME.fullmatch(os.environ.get("OLLAMA_HOST", "").strip().strip("\"'").strip())
    if named and not os.environ.get("VLLAMA_HOST"):
        scheme, path = named[1], (named[2] or "").rstrip("/")
    return f"{scheme}://{_reachable(settings.host)}:{settings.port}{path}"


def named_url(text: str, option: str) -> str:
    """A server as `OLLAMA_HOST` names it: without a scheme or a port the usual ones. Raises VllamaError."""
    scheme, _, rest = text.rpartition("://")
    if scheme not in ("", "http", "https") or not rest.strip("/") or rest.startswith("unix:"):
        raise VllamaError(f"bad value {text!r} for {option}", "give http://host:port or https://host")
    host, port = parse_ollama_host(text)
    path = rest.partition("/")[2].rstrip("/")
    return f"{scheme or 'http'}://{_reachable(host)}:{port}{f'/{path}' if path else ''}"


def _reachable(host: str) -> str:
    """The address in a URL; one that stands for all of a machine's is, to a client, this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{host}]" if address.version == 6 else host
