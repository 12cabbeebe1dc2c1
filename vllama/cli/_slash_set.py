"""`/set` in the interactive chat."""

from typing import Any

from vllama.cli import _slash_help
from vllama.cli._prompt import Prompt
from vllama.cli._session import Session
from vllama.translate.options import _BOOLEANS as BOOLEANS, _FLOATS as FLOATS, _INTEGERS as INTEGERS

_THINK = {"true": True, "false": False, "": True}


def set_(rest: str, session: Session, prompt: Prompt) -> str:
    """Change what the session goes by. Returns what to say about it."""
    word, _, value = rest.partition(" ")
    value = value.strip()
    match word:
        case "":
            return _slash_help.SET
        case "parameter":
            return _set_parameter(value.split(), session)
        case "system":
            return _set_system(value, session)
        case "history" | "nohistory":
            prompt.remember = word == "history"
            return ""
        case "wordwrap" | "nowordwrap":
            session.style.wrap = word == "wordwrap"
        case "verbose" | "quiet":
            session.style.verbose = word == "verbose"
        case "think" | "nothink":
            return _set_think(word, value, session)
        case "format":
            if value != "json":
                return "Invalid or missing format. For 'json' mode use '/set format json'"
            session.format = value
            return f"Set format to '{value}' mode."
        case "noformat":
            session.format = None
            return "Disabled format."
        case _:
            return f"Unknown command '/set {word}'. Type /? for help"
    return f"Set '{word}' mode."


def _set_system(text: str, session: Session) -> str:
    if not text:
        return _slash_help.SET
    session.system = text
    return "Set system message."


def _set_think(word: str, value: str, session: Session) -> str:
    session.think = word == "think" and _THINK.get(value, value)
    if word == "think" and not session.can("thinking"):
        return f"warning: model '{session.model}' does not support thinking output"
    return f"Set 'think' mode to '{value}'." if value else f"Set '{word}' mode."


def _set_parameter(words: list[str], session: Session) -> str:
    if len(words) < 2:
        return _slash_help.PARAMETERS
    name, *values = words
    try:
        session.options[name] = read_parameter(name, values)
    except ValueError as error:
        return f"Couldn't set parameter: {error}"
    return f"Set parameter '{name}' to '{', '.join(values)}'"


def read_parameter(name: str, values: list[str]) -> Any:
    """An option's value as the API takes it. Raises ValueError with Ollama's words."""
    if name == "stop":
        return values
    kinds: dict[str, Any] = dict.fromkeys(FLOATS, float) | dict.fromkeys(INTEGERS, int)
    if name in BOOLEANS:
        kinds[name] = bool
    if name not in kinds:
        raise ValueError(f"unknown parameter '{name}'")
    try:
        return kinds[name](values[0])
    except ValueError:
        raise ValueError(f"invalid {kinds[name].__name__} value [{' '.join(values)}]") from None
