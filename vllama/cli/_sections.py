"""What `/api/show` answers, in the sections that `vllama show` and `/show info` print."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vllama.cli._table import table

_LINES_SHOWN = 2
"""Of long texts."""


def sections(shown: dict[str, Any], *, verbose: bool = False) -> str:
    texts = (
        _section("Model", _model(shown)),
        _section("Capabilities", ((ability,) for ability in shown.get("capabilities") or ())),
        _section("Projector", _metadata(shown.get("projector_info") or {})),
        _section("Parameters", (line.split(maxsplit=1) for line in shown.get("parameters", "").splitlines() if line)),
        _section("Metadata", _metadata(shown.get("model_info") or {}) if verbose else ()),
        _section("Tensors", _tensors(shown.get("tensors") or ()) if verbose else ()),
        _section("System", _head(shown.get("system", ""))),
        _section("License", _head(shown.get("license", ""))),
    )
    return "".join(texts)


def _section(title: str, rows: Iterable[Sequence[str]]) -> str:
    lines = list(rows)
    return f"  {title}\n{table(lines, indent='    ')}\n" if lines else ""


def _model(shown: dict[str, Any]) -> Iterator[tuple[str, str]]:
    info, details = shown.get("model_info") or {}, shown.get("details") or {}
    architecture = info.get("general.architecture") or details.get("family", "")
    facts = {
        "architecture": architecture,
        "parent": details.get("parent_model"),
        "parameters": details.get("parameter_size"),
        "context length": info.get(f"{architecture}.context_length"),
        "embedding length": info.get(f"{architecture}.embedding_length"),
        "quantization": details.get("quantization_level"),
        "requires": shown.get("requires"),
    }
    return ((name, str(value)) for name, value in facts.items() if value)


def _metadata(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    return ((key, _short(value)) for key, value in sorted(info.items()))


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f"[{', '.join(map(str, value[:3]))}, ...+{len(value) - 3} more]"
    return str(value)


def _tensors(tensors: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    return ((tensor["name"], tensor["type"], str(tensor["shape"])) for tensor in tensors)


def _head(text: str) -> list[tuple[str]]:
    lines = [(line.strip(),) for line in text.splitlines() if line.strip()]
    return lines if len(lines) <= _LINES_SHOWN else [*lines[:_LINES_SHOWN], ("...",)]
