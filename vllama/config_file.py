"""Paths as users write them, and where the configuration file is."""

import os
from pathlib import Path

import platformdirs


def config_file() -> Path | None:
    """`$VLLAMA_CONFIG`, else `vllama.toml` in the working folder, else in the user's configuration folder."""
    if named := os.environ.get("VLLAMA_CONFIG"):
        return expand_user(Path(named))
    candidates = (Path("vllama.toml"), Path(platformdirs.user_config_dir("vllama", appauthor=False)) / "vllama.toml")
    return next((path for path in candidates if path.is_file()), None)


def absolute(path: Path) -> Path:
    # Not resolve(): a virtual environment's interpreter is a link that must not be followed.
    return Path(os.path.abspath(expand_user(path)))  # noqa: PTH100


def expand_user(path: Path) -> Path:
    # Path.expanduser() raises for a user, or a home, that does not exist.
    return Path(os.path.expanduser(path))  # noqa: PTH111
