"""The settings at the head of a model's or adapter's README.md, in YAML."""

import contextlib
import re
from pathlib import Path

_CARD = re.compile(r"---\s*\n(.*?)\n---", re.DOTALL)
_RL_TAGS = re.compile(r"[\s\[,](grpo|ppo|rloo|online-dpo|reinforcement-learning)(?=$|[\s\],])", re.IGNORECASE)
_LONGEST = 20_000


def card_value(path: Path, key: str) -> str:
    """The value of a key, the first of several; "" where the folder's card has none."""
    found = re.search(rf"^{key}:[ \t]*\n?[ \t-]*([^\s#]+)", _read(path), re.MULTILINE)
    return found[1].strip("\"'") if found else ""


def made_by_rl(path: Path) -> bool:
    """Whether a card tells of reinforcement learning: the folder's, or the one of the run that it belongs to."""
    return bool(_RL_TAGS.search(_read(path) or _read(path.parent)))


def _read(path: Path) -> str:
    with contextlib.suppress(OSError), (path / "README.md").open(encoding="utf-8", errors="replace") as opened:
        if found := _CARD.match(opened.read(_LONGEST)):
            return found[1]
    return ""
