"""Ollama's requests that make, copy and delete models."""

from typing import Any

from msgspec import Struct, field

from vllama.wire.ollama import Message, Named


class CreateRequest(Named):
    """files, adapters, draft_files: digests of uploads by file names."""

    from_: str | None = field(default=None, name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    draft_files: dict[str, str] | None = None
    template: str | None = None
    license: str | list[str] | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[Message] | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    quantize: str | None = None
    quantization: str | None = None
    draft_quantize: str | None = None
    remote_host: str | None = None
    info: dict[str, Any] | None = None
    stream: bool | None = None

    @property
    def licenses(self) -> list[str]:
        given = self.license or []
        return [text for text in ([given] if isinstance(given, str) else given) if text]


class CopyRequest(Struct):
    source: str | None = None
    destination: str | None = None


class DeleteRequest(Named):
    pass
