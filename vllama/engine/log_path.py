"""Where the output of engines lies."""

import re
from pathlib import Path

STANDBY = "standby"


def log_folder(home: Path) -> Path:
    return home / "logs"


def log_path(home: Path, name: str) -> Path:
    """The log of the engine that vLLM calls by this name, or of the standby."""
    return log_folder(home) / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}.log"
