"""`/show` in the interactive chat."""

from typing import Any

from vllama.cli import _slash_help
from vllama.cli._sections import sections
from vllama.cli._session import Session

_MISSING = {
    "license": "No license was specified for this model.",
    "modelfile": "No Modelfile was specified for this model.",
    "system": "No system message was specified for this model.",
    "template": "No prompt template was specified for this model.",
}


def show(what: str, session: Session) -> str:
    """What to print about the session's model."""
    if what == "info":
        return sections(session.shown)
    if what == "parameters":
        return _parameters(session.shown.get("parameters") or "", session.options)
    if what == "system" and session.system:
        return session.system + "\n"
    if what in _MISSING:
        return f"{session.shown[what]}\n" if session.shown.get(what) else _MISSING[what]
    return f"Unknown command '/show {what}'. Type /? for help" if what else _slash_help.SHOW


def _parameters(defined: str, options: dict[str, Any]) -> str:
    lines = ["Model defined parameters:"]
    lines += [f"  {line}" for line in defined.splitlines()] or ["  No additional parameters were specified."]
    if options:
        lines += ["", "User defined parameters:", *(f"  {name:<30} {value}" for name, value in options.items())]
    return "\n".join(lines) + "\n"
