"""Modelfiles as they are written: from a text to what it asks for."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vllama.errors import ConfigError
from vllama.models.modelfile import Modelfile
from vllama.translate.options import KINDS
from vllama.translate.template import is_go_template

COMMANDS = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
    "requires",
)  # fmt: skip
ROLES = ("system", "user", "assistant")
GO_TEMPLATE = (
    "Go templates are not rendered: write it in Jinja, as vLLM's models have it, or leave it out for their own"
)
NO_SEMVER = "requires must be a valid semver (e.g. 0.14.0)"
NO_DRAFT = "DRAFT is not supported: give vLLM a draft model when the server starts, with --speculative-config"

_DEPRECATED = frozenset({
    "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "mirostat", "mirostat_tau",
    "mirostat_eta",
})  # fmt: skip
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_COMMAND = re.compile(r"[ \t]*([^ \t\r\n]+)[ \t]*(.*)", re.DOTALL)
_NAMED = re.compile(r"(\w+)[ \t]+(.*)", re.DOTALL | re.ASCII)
_SEMVER = re.compile(r"v?((0|[1-9]\d*)(\.(0|[1-9]\d*)){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?)", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_LARGEST_INTEGER = 2**63 - 1
_LARGEST_FLOAT = 3.4028234663852886e38


class ModelfileError(ConfigError):
    """A Modelfile that cannot be used; the text names the line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"(line {line}): {message}")


@dataclass(frozen=True)
class Command:
    """name: in lower case. word: of PARAMETER the option, of MESSAGE the role. line: where it begins, from 1."""

    name: str
    value: str
    line: int
    word: str = ""


@dataclass(frozen=True)
class Recipe:
    """What a Modelfile asks for. sources, adapters: what FROM and ADAPTER name. warnings: of what has no effect."""

    sources: tuple[Command, ...]
    adapters: tuple[Command, ...] = ()
    modelfile: Modelfile = field(default_factory=Modelfile)
    warnings: tuple[str, ...] = ()


def read_modelfile(content: bytes) -> Recipe:
    """Raises ConfigError naming the line that is wrong."""
    return parse_modelfile(_decode(content))


def parse_modelfile(text: str) -> Recipe:
    """Raises ConfigError naming the line that is wrong."""
    commands = list(_commands(text))
    by_name = {name: [command for command in commands if command.name == name] for name in COMMANDS}
    if not by_name["from"]:
        raise ConfigError("no FROM line", "begin the Modelfile with FROM and the name of a model, or a folder")
    for command in by_name["draft"]:
        raise ModelfileError(command.line, NO_DRAFT)
    warnings = [
        f"parameter {command.word} is deprecated" for command in by_name["parameter"] if command.word in _DEPRECATED
    ]
    return Recipe(
        tuple(by_name["from"]),
        tuple(by_name["adapter"]),
        Modelfile(
            system=_last(by_name["system"]),
            template=_template(by_name["template"]),
            parameters=_parameters(by_name["parameter"]),
            messages=tuple((command.word, command.value) for command in by_name["message"]),
            license=tuple(command.value for command in by_name["license"] if command.value),
            requires=_requires(by_name["requires"]),
            renderer=_last(by_name["renderer"]),
            parser=_last(by_name["parser"]),
        ),
        tuple(warnings),
    )


def read_version(text: str) -> str | None:
    """A version as REQUIRES takes it, without the `v` that it may begin with; None for what is none."""
    found = _SEMVER.fullmatch(text)
    return found[1] if found else None


def _decode(content: bytes) -> str:
    mark = next((mark for mark in _BOMS if content.startswith(mark)), b"")
    try:
        return content[len(mark) :].decode(_BOMS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ModelfileError(line, "this is not text in UTF-8, nor in UTF-16 with a mark that says so") from None


def _commands(text: str) -> Iterator[Command]:
    lines = enumerate(_LINE.findall(text), 1)
    for number, line in lines:
        if not (stripped := line.strip(" \t\r\n")) or stripped.startswith("#"):
            continue
        name, word, rest = _begin(line, number)
        value = _value(rest, lines)
        if value is None:
            raise ModelfileError(number, "unexpected EOF: the quotes that begin here are never closed at a line's end")
        if not value and name in ("from", "adapter", "parameter"):
            raise ModelfileError(number, f"{name.upper()} needs a value")
        yield Command(name, value, number, word)


def _begin(line: str, number: int) -> tuple[str, str, str]:
    """A command, the word that follows it where it has one, and the rest of its line."""
    found = _COMMAND.match(line)
    assert found is not None
    name, rest = found[1].lower(), found[2]
    if name not in COMMANDS:
        wanted = ", ".join(f'"{command}"' for command in COMMANDS[:-1])
        raise ModelfileError(number, f'command must be one of {wanted}, or "{COMMANDS[-1]}"')
    if not rest.strip():
        raise ModelfileError(number, f"{name.upper()} needs a value")
    if name not in ("parameter", "message"):
        return name, "", rest
    named = _NAMED.match(rest)
    word = named[1] if named else rest.split()[0]
    if name == "message" and (word := word.lower()) not in ROLES:
        raise ModelfileError(number, 'message role must be one of "system", "user", or "assistant"')
    if named is None or not named[2].strip():
        raise ModelfileError(number, f"{name.upper()} {word} needs a value")
    return name, word, named[2]


def _value(rest: str, lines: Iterator[tuple[int, str]]) -> str | None:
    """A value, with the lines that its quotes make part of it. None where they are not closed."""
    start = rest.lstrip()
    quotes = next((quotes for quotes in ('"""', '"') if start.startswith(quotes)), "")
    if not quotes:
        return start.rstrip()
    parts, line = [start], start
    least = 2 * len(quotes)
    while not (line.rstrip().endswith(quotes) and (len(parts) > 1 or len(line.rstrip()) >= least)):
        _, line = next(lines, (0, ""))
        if not line:
            return None
        parts.append(line)
    return "".join(parts).rstrip()[len(quotes) : -len(quotes)]


def _last(commands: list[Command]) -> str:
    return commands[-1].value if commands else ""


def _template(commands: list[Command]) -> str | None:
    for command in commands:
        if is_go_template(command.value):
            raise ModelfileError(command.line, f"TEMPLATE: {GO_TEMPLATE}")
    return _last(commands) or None


def _requires(commands: list[Command]) -> str:
    version = ""
    for command in commands:
        if (found := read_version(command.value)) is None:
            raise ModelfileError(command.line, NO_SEMVER)
        version = found
    return version


def _parameters(commands: list[Command]) -> dict[str, Any]:
    """Of the same parameter given twice the last holds, but for `stop`, whose values are collected."""
    parameters: dict[str, Any] = {}
    for command in commands:
        if command.word == "stop":
            parameters.setdefault("stop", []).append(command.value)
        elif command.word not in _DEPRECATED:
            parameters[command.word] = _number(command)
    return parameters


def _number(command: Command) -> int | float | bool:
    kind, text = KINDS.get(command.word), command.value
    if kind is None:
        raise ModelfileError(command.line, f"unknown parameter '{command.word}'")
    if kind == "int" and _INTEGER.fullmatch(text) and abs(int(text)) <= _LARGEST_INTEGER:
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text) and abs(float(text)) <= _LARGEST_FLOAT:
        return float(text)
    if kind == "bool" and text in _TRUE + _FALSE:
        return text in _TRUE
    raise ModelfileError(command.line, f"invalid {kind} value [{text}]")
