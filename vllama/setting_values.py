"""The types of settings: what each may be, how people write it, and what is kept of it."""

import math
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from vllama.config_file import absolute
from vllama.security.keys import digest
from vllama.security.origins import read_origin
from vllama.translate.duration import parse_seconds

FOREVER = math.inf

_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "array": "a list"}
_SWITCHES = {"on": True, "yes": True, "off": False, "no": False}


@dataclass(frozen=True)
class Before:
    """Reads what was written. Raises ValueError saying what to write instead."""

    read: Callable[[Any], Any]


@dataclass(frozen=True)
class After:
    """Checks a value of the type and returns the one to keep. Raises ValueError as `Before` does."""

    check: Callable[[Any], Any]


def read(annotation: Any, value: Any) -> Any:
    """What is kept of a value for a setting of this type. Raises ValueError saying what to write instead."""
    type_, notes = _parts(annotation)
    for note in notes:
        value = note.read(value) if isinstance(note, Before) else value
    try:
        value = msgspec.convert(value, Annotated[type_, *notes], strict=False, dec_hook=_read_path)
    except msgspec.ValidationError as error:
        raise ValueError(_choices(type_) or _expected(error, notes)) from None
    for note in notes:
        value = note.check(value) if isinstance(note, After) else value
    return value


def _parts(annotation: Any) -> tuple[Any, list[Any]]:
    """The type where a value is given, and what else is said of it."""
    notes: list[Any] = []
    while (origin := get_origin(annotation)) in (Annotated, Union, types.UnionType):
        notes += annotation.__metadata__ if origin is Annotated else ()
        annotation = get_args(annotation)[0]  # of a union, the other is None
    return annotation, notes


def _choices(type_: Any) -> str:
    """Where only some values will do, which."""
    if get_origin(type_) is Literal:
        values = get_args(type_)
    elif isinstance(type_, type) and issubclass(type_, Enum):
        values = tuple(type_)
    else:
        return ""
    *others, last = map(str, values)
    return f"give {', '.join(others)} or {last}"


def _expected(error: msgspec.ValidationError, notes: Sequence[Any]) -> str:
    """msgspec's "Expected `int` >= 1", or "Expected `int`, got `str` - at `$[0]`", in plain words."""
    wanted = re.split(", got | - at | [<>]", str(error))[0].removeprefix("Expected ")
    return "give " + re.sub(r"`(\w+)`", lambda name: _WORDS.get(name[1], name[1]), wanted) + _bounds(notes)


def _bounds(notes: Sequence[Any]) -> str:
    """Both of them, whichever was missed."""
    found = {
        name: limit
        for note in notes
        if isinstance(note, Meta)
        for name in ("ge", "gt", "le")
        if (limit := getattr(note, name)) is not None
    }
    if {"ge", "le"} <= found.keys():
        return f" from {found['ge']} to {found['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "at most"}
    texts = [f"{words[name]} {limit:g}" for name, limit in found.items()]
    return f" {' and '.join(texts)}" if texts else ""


def _read_path(type_: type, value: Any) -> Path:
    if type_ is not Path or not isinstance(value, str | Path):
        raise ValueError("Expected a path")
    return absolute(Path(value))


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_arguments(value: Any) -> Any:
    import shlex

    try:
        return shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:  # No closing quotation
        raise ValueError(f"{error}: write arguments as in a shell") from None


def _switch(value: Any) -> Any:
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


def _digests(value: Any) -> list[bytes]:
    """Nothing that shows the settings can show a key."""
    keys = _split(value) or [""] if isinstance(value, str) else value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("give a list of texts")
    return [digest(key) for key in keys]


def _seconds(value: Any) -> float:
    try:
        seconds = parse_seconds(value) if isinstance(value, str) else value
    except ValueError:
        seconds = math.nan
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds):
        raise ValueError("give seconds, or a text like 90s, 5m or 1h30m")
    return FOREVER if seconds < 0 else seconds


def _length(value: Any) -> str:
    text = str(value)
    if not re.fullmatch(r"auto|-1|[1-9]\d*|\d+(\.\d+)?[kKmM]", text):
        raise ValueError("give a number of tokens like 8192, 8k or 8K, or auto")
    return text


def _origins(value: list[str]) -> list[str]:
    return [read_origin(entry) for entry in value]


def _adapters(value: list[str]) -> list[str]:
    for entry in value:
        name, _, path = entry.partition("=")
        if not name or not path or path.startswith("@"):
            raise ValueError(f"{entry!r} names no adapter: write NAME=PATH or NAME=PATH@BASE")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("give a finite number")
    return value


def _engine_url(value: str) -> str:
    if re.fullmatch(r"unix:/.+", value):
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give http://host:port, https://host or unix:/path")
    if parts.username or parts.password:
        raise ValueError("credentials do not belong into the address: set VLLAMA_ENGINE_API_KEY")
    return value


Switch = Annotated[bool, Before(_switch)]
Count = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Share = Annotated[float, Meta(gt=0, le=1)]
Amount = Annotated[float, Meta(gt=0), After(_finite)]
Length = Annotated[str, Before(_length)]
Seconds = Annotated[float, Before(_seconds)]
Patience = Annotated[float, Before(_seconds), After(lambda seconds: seconds or FOREVER)]
Texts = Annotated[list[str], Before(_split)]
Folders = Annotated[list[Path], Before(_split)]
Arguments = Annotated[list[str], Before(_split_arguments)]
Adapters = Annotated[list[str], Before(_split), After(_adapters)]
Origins = Annotated[list[str], Before(_split), After(_origins)]
Keys = Annotated[list[bytes], Before(_digests)]
Url = Annotated[str, After(_engine_url)]
