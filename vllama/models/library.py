"""The names of Ollama's library, and the repositories of safetensors that they lead to."""

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from vllama.models.names import HOST, NAMESPACE, TAG, ModelName

_TABLE = Path(__file__).with_suffix(".toml")
_GGUF_FORMAT = re.compile(r"-?(i?q\d\w*|f16|fp16|bf16|f32|fp32|mxfp4|(it-)?qat)$")
"""How Ollama's tags name the formats of GGUF files: here the weights are as they were published."""
_VARIANT = re.compile(r"(^|-)(instruct|it|chat)$")
_CONVERTED = re.compile(
    r"[-_.](gguf|mlx|imatrix|i1|ud|dwq|dynamic|exl[23]|bnb|unsloth|qat|\d+[-_]?bits?|q\d\w*|[bf]?f?p?16|mxfp4)$"
)
"""What is put behind a repository's name by those who convert it."""
_QUANTISED = ("awq", "gptq", "fp8")


@dataclass(frozen=True)
class Entry:
    """A model of the library. name: without what is left out in it. parameters: as people say it. size: about how many
    bytes are fetched."""

    name: str
    repo: str
    parameters: str
    size: int


@dataclass(frozen=True)
class Family:
    """The sizes of a model by their tags. latest: the tag that is meant by none."""

    latest: str
    entries: dict[str, Entry]

    def find(self, tag: str) -> Entry | None:
        tag = tag.lower()
        plain = _GGUF_FORMAT.sub("", tag)
        for form in (tag, plain, _VARIANT.sub("", plain)):
            if (entry := self.entries.get(self.latest if form in {TAG, ""} else form)) is not None:
                return entry
        return None


def resolve(name: ModelName) -> Entry | None:
    """Where the name of a library model leads; None for names that are none, or have a tag that is not known."""
    family = _family(name)
    return family.find(name.tag) if family else None


def tags(name: ModelName) -> tuple[str, ...]:
    """Those there are of the family that a name is of; none where there is no such family."""
    family = _family(name)
    return tuple(family.entries) if family else ()


def sibling(repo: str) -> str | None:
    """The name of the smallest model of the library that is the one in this repository, quantised."""
    for family in _library().values():
        for tag, entry in family.entries.items():
            if entry.repo.lower() == repo.lower():
                smaller = [family.entries.get(f"{tag}-{method}") for method in _QUANTISED]
                found = [other for other in smaller if other is not None and other.size < entry.size]
                if found:
                    return min(found, key=lambda other: other.size).name
    return None


def safetensors_of(repo: str) -> str | None:
    """The repository that this one, of GGUF files or for MLX, was made from."""
    return _originals().get(_stem(repo))


@functools.cache
def _library() -> dict[str, Family]:
    families = {}
    for family, rows in tomllib.loads(_TABLE.read_text()).items():
        latest = rows.pop("latest")
        entries = {
            tag: Entry(f"{family}:{tag}", repo, parameters, round(gigabytes * 1e9))
            for tag, (repo, parameters, gigabytes) in rows.items()
        }
        families[family] = Family(latest, entries)
    return families


@functools.cache
def _originals() -> dict[str, str]:
    entries = [entry for family in _library().values() for entry in family.entries.values()]
    return {_stem(entry.repo): entry.repo for entry in entries if not entry.name.endswith(_QUANTISED)}


def _family(name: ModelName) -> Family | None:
    if (name.host, name.namespace) != (HOST, NAMESPACE):
        return None
    return _library().get(name.model.lower())


def _stem(repo: str) -> str:
    """What is common to the names of a repository and of those made from it."""
    stem = repo.rpartition("/")[2].lower()
    while (shorter := _CONVERTED.sub("", stem)) != stem:
        stem = shorter
    # Some put the vendor's name before the model's.
    stem = re.sub(r"^(meta|google|microsoft|mistralai|deepseek-ai|qwen|openai|ibm-granite)_", "", stem)
    return stem.removeprefix("meta-")
