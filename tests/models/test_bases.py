from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.each import each
from vllama import demo
from vllama.errors import ConfigError
from vllama.models import hub
from vllama.models.adapters import inspect_adapter
from vllama.models.bases import Base, base_of
from vllama.models.names import parse

ADAPTER = inspect_adapter(Path(demo.__file__).parent / "adapter")
SNAPSHOT = "/cache/hub/models--org--tiny/snapshots/0123456789abcdef"
KNOWN = [
    (parse(name), source)
    for name, source in (
        ("demo", str(demo.CHAT)),
        ("qwen", "Qwen/Qwen3-4B"),
        ("mine", "/models/Llama-8B"),
        ("cached", SNAPSHOT),
        ("copy-of-qwen", "Qwen/Qwen3-4B"),
        ("one", "/a/twin"),
        ("two", "/b/twin"),
    )
]


def wants(base: str, given: str = "") -> Base:
    return base_of(replace(ADAPTER, base=base), "parrot", KNOWN, given)


@each(
    ("base", "name"),
    [
        ("demo", "demo"),
        ("DEMO:latest", "demo"),
        ("Qwen/Qwen3-4B", "qwen"),
        ("qwen/qwen3-4b", "qwen"),
        ("copy-of-qwen", "copy-of-qwen"),
        # The repository in another machine's cache, and a folder of its name.
        ("/home/me/.cache/huggingface/hub/models--Qwen--Qwen3-4B/snapshots/0123456789", "qwen"),
        ("/mnt/train/Qwen3-4B/", "qwen"),
        ("../bases/qwen3-4b", "qwen"),
        ("org/tiny", "cached"),
        ("meta/Llama-8B", "mine"),
        # By its name here, where its folder has another.
        ("/mnt/train/Mine", "mine"),
        ("/models/Llama-8B", "mine"),
        ("unsloth/qwen3-4b-unsloth-bnb-4bit", "qwen"),
        ("unsloth/Llama-8B-bnb-4bit", "mine"),
    ],
)
def test_the_base_that_the_adapter_tells(base: str, name: str) -> None:
    assert wants(base).name == parse(name)


@pytest.mark.parametrize("given", ["demo", str(demo.CHAT)])
def test_the_base_that_the_user_tells(given: str) -> None:
    assert wants("Qwen/Qwen3-4B", given) == (parse("demo"), str(demo.CHAT))


@pytest.mark.parametrize("given", ["", "org/base"])
def test_a_repository_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str) -> None:
    monkeypatch.setattr(hub, "cached_snapshot", {"org/base": tmp_path}.get)
    assert wants("org/base", given) == (None, "org/base")
    assert wants("org/base-bnb-4bit") == (None, "org/base")
    assert wants("qwen/qwen3-4b") == (parse("qwen"), "Qwen/Qwen3-4B")


def test_a_folder_that_is_nobodys_model_yet(tmp_path: Path) -> None:
    assert wants(str(tmp_path)) == (None, str(tmp_path))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as raised:
        call()
    return str(raised.value)


BY_HAND = f"--lora parrot={ADAPTER.path}@BASE"


@each(
    ("base", "given", "told"),
    [
        ("", "", f"the adapter parrot ({ADAPTER.path}) does not tell its base model: name it: {BY_HAND}"),
        (
            "org/unknown",
            "",
            "the adapter parrot wants the base org/unknown, which is not here: run `vllama pull org/unknown`, or say "
            f"which model it is: {BY_HAND}",
        ),
        # Another organisation's model of the same name may be another one.
        ("other/Qwen3-4B", "", "the adapter parrot wants the base other/Qwen3-4B, which is not here"),
        (
            "/mnt/train/unknown",
            "",
            "the adapter parrot wants the base /mnt/train/unknown, which is not here: say which model it is: "
            f"{BY_HAND}",
        ),
        (
            "unsloth/gemma-bnb-4bit",
            "",
            "the adapter parrot wants the base unsloth/gemma-bnb-4bit, which is not here: vLLM does not load that "
            f"quantised copy: pull the model it was made from, and say which model it is: {BY_HAND}",
        ),
        (
            "/mnt/twin",
            "",
            f"the adapter parrot wants the base /mnt/twin, which could be any of one:latest, two:latest: name one: "
            f"{BY_HAND}",
        ),
        ("x" * 5000, "", "the adapter parrot wants the base xxx"),
        ("~nobody-here/x", "", "the adapter parrot wants the base ~nobody-here/x, which is not here"),
        ("a\0b", "", "the adapter parrot wants the base a\0b, which is not here"),
        # What the user says is taken at its word.
        ("demo", "Llama-8B", "the adapter parrot wants the base Llama-8B, which is not here"),
    ],
)
def test_no_base(base: str, given: str, told: str) -> None:
    assert refused(lambda: wants(base, given)).startswith(told)
