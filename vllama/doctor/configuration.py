"""The settings, from wherever they come."""

import os
from pathlib import Path

from vllama.config_file import config_file
from vllama.doctor.finding import Finding, ok, problem, warning
from vllama.errors import ConfigError
from vllama.settings import Settings, load, unknown_variables

_NAME = "settings"


def read() -> tuple[Settings, list[Finding]]:
    """The settings that hold, and what is wrong with them; where they cannot be read, the defaults."""
    unknown = [
        warning(_NAME, f"nothing reads {name}", f"did you mean {meant}?" if meant else "unset it")
        for name, meant in unknown_variables(os.environ)
    ]
    try:
        settings = load()
    except ConfigError as error:
        return _defaults(), [problem(_NAME, error.message, error.advice or ""), *unknown]
    file = config_file()
    return settings, [ok(_NAME, f"{file} is valid" if file else "no vllama.toml: defaults and variables"), *unknown]


def _defaults() -> Settings:
    home = os.environ.get("VLLAMA_HOME")
    return Settings(home=Path(home).absolute()) if home else Settings()
