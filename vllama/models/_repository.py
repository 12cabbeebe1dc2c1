"""Which files of a hub repository vLLM needs. Shared by the gateway and its download worker: imports nothing heavy."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

_SMALL = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"}
_TEXTS = re.compile(r"(LICEN[SC]E|COPYING|NOTICE|README)(\.md|\.txt)?", re.IGNORECASE)
# sentence-transformers keeps its modules in numbered folders, transformers further templates in one of that name.
_FOLDERS = re.compile(r"\d+_\w+|additional_chat_templates")
_PICKLED = re.compile(r"(pytorch_model|model)[\w.-]*\.bin")


def wanted_files(names: Iterable[str]) -> list[str]:
    """Settings, tokenizer, template, licence; and the weights in one format, safetensors before pickled ones."""
    paths = [path for path in map(PurePosixPath, sorted(names)) if _in_reach(path)]
    small = [path for path in paths if path.suffix in _SMALL or _TEXTS.fullmatch(path.name)]
    safetensors = [path for path in paths if path.suffix == ".safetensors"]
    # Mistral publishes the same weights a second time in its own format.
    safetensors = [path for path in safetensors if not path.name.startswith("consolidated")] or safetensors
    weights = safetensors or [path for path in paths if _PICKLED.fullmatch(path.name)]
    return sorted(str(path) for path in {*small, *weights})


def has_weights(names: Iterable[str]) -> bool:
    return any(name.endswith((".safetensors", ".bin")) for name in names)


def _in_reach(path: PurePosixPath) -> bool:
    return len(path.parts) == 1 or (len(path.parts) == 2 and bool(_FOLDERS.fullmatch(path.parts[0])))
