"""Chat templates, read as text: nothing is executed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LONGEST = 1_000_000
"""Characters looked at; real templates have at most some tens of thousands."""

_OPEN = re.compile(r"\{#|\{\{|\{%")
_IN_CODE = re.compile(
    r"""(?P<string>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?P<close>[%}]\})|(?P<name>\.?\s*[A-Za-z_]\w*)""", re.DOTALL
)


def read_templates(folder: Path, tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """The folder's chat templates by name, as transformers finds them; the one in use is `default`."""
    if (template := _read(folder / "chat_template.jinja")) is not None:
        return {"default": template} | dict(_additional(folder / "additional_chat_templates"))
    for value in (_from_json(folder / "chat_template.json"), tokenizer_config.get("chat_template")):
        if isinstance(value, str) and value:
            return {"default": value}
        if isinstance(value, list) and (named := dict(_named(value))):
            return named
    return {}


def default_template(templates: dict[str, str]) -> str | None:
    return templates.get("default") or next(iter(templates.values()), None)


def variables(template: str) -> frozenset[str]:
    """Names used in the template's statements and expressions: neither its prose, its strings nor attributes."""
    return frozenset(_variables(template[:LONGEST]))


def _variables(template: str) -> Iterator[str]:
    position = 0
    while opened := _OPEN.search(template, position):
        if opened[0] == "{#":
            end = template.find("#}", opened.end())
            if end < 0:
                return
            position = end + 2
            continue
        for token in _IN_CODE.finditer(template, opened.end()):
            position = token.end()
            if token.lastgroup == "close":
                break
            if token.lastgroup == "name" and not token[0].startswith("."):
                yield token[0].strip()
        else:
            return


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):
        return None


def _from_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())["chat_template"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _additional(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.jinja")):
        if (template := _read(path)) is not None:
            yield path.stem, template


def _named(entries: list[Any]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        match entry:
            case {"name": str(name), "template": str(template)}:
                yield name, template
