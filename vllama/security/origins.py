"""The web pages that may use the gateway: their origins, written out or with one `*`."""

import re
from collections.abc import Iterable

_LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104
_APPS = ("app", "file", "tauri", "vscode-webview", "vscode-file")
BUILT_IN = (
    *(f"{scheme}://{name}{port}" for name in _LOCAL_NAMES for scheme in ("http", "https") for port in ("", ":*")),
    *(f"{scheme}://*" for scheme in _APPS),
)
"""Pages that this machine serves itself, and desktop applications."""


def read_origin(text: str) -> str:
    """An entry of the setting `origins`, tidied. Raises ValueError saying what to write instead."""
    origin = text.strip().lower()
    if re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/]+/", origin):
        origin = origin[:-1]  # the address of the page's front, where its origin was meant
    if origin.count("*") > 1:
        raise ValueError(f"{text!r} has more than one *: write one entry for each kind of origin")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+|\S*\*\S*", origin):
        raise ValueError(
            f"{text!r} is not an origin: write scheme://host or scheme://host:port, like https://app.example.com, "
            "or * for any text, as in https://*.example.com"
        )
    return origin


class Origins:
    """A set of origins. all: whether every origin is in it."""

    def __init__(self, entries: Iterable[str]) -> None:
        """entries: as `read_origin` gives them."""
        known = [*entries, *BUILT_IN]
        self.all = "*" in known
        self._exact = frozenset(known)
        self._patterns = [(head, tail) for head, star, tail in (entry.partition("*") for entry in known) if star]

    def __contains__(self, origin: str) -> bool:
        origin = origin.lower()
        return origin in self._exact or any(
            origin.startswith(head) and origin.endswith(tail) and len(origin) >= len(head) + len(tail)
            for head, tail in self._patterns
        )
