"""Three tiny models that ship with vLLama, so that it can be tried and tested without a download or a GPU.

`dialogues` holds what they were taught; `train` makes them again. Importing this package loads neither.
"""

from pathlib import Path

__all__ = ["ADAPTER", "CHAT", "EMBED"]

_HERE = Path(__file__).resolve().parent

CHAT: Path = _HERE / "chat"
EMBED: Path = _HERE / "embed"
ADAPTER: Path = _HERE / "adapter"
