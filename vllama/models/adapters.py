"""LoRA adapters: what their folders say."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vllama.errors import ConfigError


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter's folder.

    base: the model that it was trained on, as its folder tells it, "" where it does not. size: bytes of its files.
    digest: 64 hexadecimal digits. targets: the modules that it changes. trouble: why vLLM cannot load it, "" where it
    can.
    """

    path: Path
    base: str
    rank: int
    size: int
    digest: str
    modified: datetime
    targets: tuple[str, ...] = ()
    trouble: str = ""


def is_adapter(path: Path) -> bool:
    return (path / "adapter_config.json").is_file()


def inspect_adapter(path: Path) -> Adapter:
    """Read an adapter's folder; raises ConfigError with what to do where it is none."""
    raise ConfigError(f"{path} cannot be read yet")
