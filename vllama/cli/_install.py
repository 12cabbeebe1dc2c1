"""The engine's installation, shown while it runs."""

import os

from vllama.cli._progress import show_install
from vllama.engine.install import Environment, configured_find_links, ensure_environment
from vllama.settings import Settings


def install_engine(settings: Settings, *, reinstall: bool = False) -> Environment:
    """The environment that the settings ask for, built first where it is missing. Raises InstallError."""
    with show_install() as report:
        return ensure_environment(
            settings.home,
            profile=settings.engine_profile,
            engine_python=settings.engine_python,
            find_links=[*settings.find_links, *configured_find_links(os.environ)],
            reinstall=reinstall,
            report=report,
        )
