"""Ollama's names, and where they lead."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.each import each
from vllama.models import library
from vllama.models.hub import is_hub_id
from vllama.models.names import parse

TABLE = tomllib.loads(Path(library.__file__).with_suffix(".toml").read_text())
NAMES = [f"{family}:{tag}" for family, rows in TABLE.items() for tag in rows if tag != "latest"]


def repo(name: str) -> str | None:
    entry = library.resolve(parse(name))
    return entry.repo if entry else None


def test_there_are_many() -> None:
    assert len(NAMES) >= 200
    assert len(TABLE) >= 80


def test_each_family() -> None:
    for family, rows in TABLE.items():
        latest = library.resolve(parse(family))
        assert latest is not None
        assert latest.name == f"{family}:{rows['latest']}"
        assert list(library.tags(parse(family))) == [tag for tag in rows if tag != "latest"]


def test_each_entry() -> None:
    for name in NAMES:
        entry = library.resolve(parse(name))
        assert entry is not None, name
        assert entry.name == name
        assert is_hub_id(entry.repo), name
        assert re.fullmatch(r"\d+(\.\d)?[BM]", entry.parameters), name
        count = float(entry.parameters[:-1]) * {"B": 1e9, "M": 1e6}[entry.parameters[-1]]
        assert 0.4 < entry.size / count < 4.5, name  # bytes for each parameter: four bits to thirty-two


@each(
    ("name", "expected"),
    [
        ("llama3.2", "meta-llama/Llama-3.2-3B-Instruct"),
        ("LLAMA3.2:1B", "meta-llama/Llama-3.2-1B-Instruct"),
        ("registry.ollama.ai/library/llama3.2:1b", "meta-llama/Llama-3.2-1B-Instruct"),
        ("llama3.1:8b-instruct-q4_K_M", "meta-llama/Llama-3.1-8B-Instruct"),
        ("qwen2.5:7b-instruct-fp16", "Qwen/Qwen2.5-7B-Instruct"),
        ("qwen2.5:7b-awq", "Qwen/Qwen2.5-7B-Instruct-AWQ"),
        ("gemma3:4b-it-qat", "google/gemma-3-4b-it"),
        ("gemma3:12b-it-q8_0", "google/gemma-3-12b-it"),
        ("mistral:instruct", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("deepseek-r1:8b-llama-distill-q4_K_M", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        ("qwen3:30b-a3b-instruct-2507-q4_K_M", "Qwen/Qwen3-30B-A3B-Instruct-2507"),
        ("llama3.2:77b", None),
        ("llama3.1:8b-text-q4_0", None),
        ("no-such-model", None),
        ("me/llama3.2", None),
        ("hf.co/library/llama3.2", None),
    ],
)
def test_names(name: str, expected: str | None) -> None:
    assert repo(name) == expected


def test_what_is_no_family_has_no_tags() -> None:
    assert library.tags(parse("no-such-model")) == ()


@each(
    ("converted", "original"),
    [
        ("bartowski/Qwen2.5-7B-Instruct-GGUF", "Qwen/Qwen2.5-7B-Instruct"),
        ("bartowski/google_gemma-3-4b-it-GGUF", "google/gemma-3-4b-it"),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "meta-llama/Llama-3.1-8B-Instruct"),
        ("mlx-community/Llama-3.2-3B-Instruct-4bit", "meta-llama/Llama-3.2-3B-Instruct"),
        ("mlx-community/Qwen3-4B-4bit-DWQ", "Qwen/Qwen3-4B"),
        ("mlx-community/gemma-3-4b-it-qat-4bit", "google/gemma-3-4b-it"),
        ("mradermacher/Qwen3-8B-i1-GGUF", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen2.5-7B-Instruct-MLX-4bit", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/gpt-oss-20b-GGUF", "openai/gpt-oss-20b"),
        ("somebody/My-Own-7B-GGUF", None),
    ],
)
def test_originals(converted: str, original: str | None) -> None:
    assert library.safetensors_of(converted) == original


@pytest.mark.parametrize(
    ("whole", "name"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5:7b-awq"),
        ("qwen/qwen3-30b-a3b", "qwen3:30b-a3b-gptq"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", None),
        ("somebody/My-Own-7B", None),
    ],
)
def test_siblings(whole: str, name: str | None) -> None:
    assert library.sibling(whole) == name
