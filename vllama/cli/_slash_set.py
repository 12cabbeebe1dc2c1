"""`/set` in the interactive chat."""

from vllama.cli import _slash_help
from vllama.cli._prompt import Prompt
from vllama.cli._session import Session
from vllama.errors import ConfigError
from vllama.models.modelfile_parser import parse_modelfile

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
    session.think = _THINK.get(value, value) if word == "think" else False
    if session.think and not session.can("thinking"):
        return session.no_thinking
    return f"Set 'think' mode to '{value}'." if value else f"Set '{word}' mode."


def _set_parameter(words: list[str], session: Session) -> str:
    if len(words) < 2:
        return _slash_help.PARAMETERS
    name, *values = words
    lines = [f"PARAMETER {name} {value}" for value in values]
    try:
        recipe = parse_modelfile("\n".join(["FROM x", *lines]))
    except ConfigError as error:
        return f"Couldn't set parameter: {str(error).partition(': ')[2]}"
    session.options |= recipe.modelfile.parameters
    return next(iter(recipe.warnings), f"Set parameter '{name}' to '{', '.join(values)}'")
