"""Ollama's requests that change what models there are, and the progress they report."""

from msgspec import Struct

from vllama.wire.ollama import Named


class PullRequest(Named):
    insecure: bool | None = None
    stream: bool | None = None


class PushRequest(PullRequest):
    """As a pull's."""


class Progress(Struct, omit_defaults=True):
    """One line of a pull, a push or a create. digest: `sha256:` and 64 hexadecimal digits; the numbers are bytes."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0
