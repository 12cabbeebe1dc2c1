"""What a Modelfile adds to a model's weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Modelfile:
    """system: the SYSTEM text. template: the TEMPLATE, in Jinja, None for the checkpoint's own.

    parameters: options by Ollama's names, below those of a request. messages: (role, content) of MESSAGE lines, which
    precede every conversation. requires: the version of Ollama that REQUIRES names. renderer, parser: names that
    RENDERER and PARSER give; they are kept, and have no effect.
    """

    system: str = ""
    template: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    license: tuple[str, ...] = ()
    requires: str = ""
    renderer: str = ""
    parser: str = ""
