import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import QWEN3, safetensors
from tests.models.test_adapters import LORA, lora_tensors
from tests.models.test_folders import below
from vllama.models import checkpoints as module
from vllama.models._folders import Kind
from vllama.models.checkpoints import Checkpoints
from vllama.models.names import parse

WEIGHTS = safetensors(lora_tensors())
DEMO = LORA | {"base_model_name_or_path": "demo"}
ADAPTER = {"adapter_config.json": DEMO, "adapter_model.safetensors": WEIGHTS}
MODEL = {"config.json": QWEN3 | {"_name_or_path": "/mnt/demo"}, "model.safetensors": WEIGHTS}
NOTHING: dict[str, Any] = {"config.json": None, "model.safetensors": None}
KNOWN = [(parse("demo"), "/x/demo"), (parse("qwen3:4b"), "Qwen/Qwen3-4B")]


def adapter_of(base: str) -> dict[str, Any]:
    return ADAPTER | {"adapter_config.json": LORA | {"base_model_name_or_path": base}}


def card(head: str) -> dict[str, Any]:
    return {"README.md": f"---\n{head}\n---\n# A model"}


def names(*folders: Path) -> dict[str, str]:
    """What is found: the name, and the end of the path."""
    return {found.name.short: found.path.name for found in Checkpoints(folders).scan(KNOWN)}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, {}),
        (below("sql", ADAPTER), {"peft:demo:sql": "sql"}),
        (
            below("sql/checkpoint-9", ADAPTER) | below("sql/checkpoint-10", ADAPTER),
            {
                "peft:demo:sql": "checkpoint-10",
                "peft:demo:sql:checkpoint-9": "checkpoint-9",
                "peft:demo:sql:checkpoint-10": "checkpoint-10",
            },
        ),
        (
            below("sql", ADAPTER) | below("sql/checkpoint-9", ADAPTER),
            {"peft:demo:sql": "sql", "peft:demo:sql:checkpoint-9": "checkpoint-9"},
        ),
        (
            below("sql/final", ADAPTER) | below("sql/step_100", ADAPTER) | below("sql/best", ADAPTER),
            {
                "peft:demo:sql": "final",
                "peft:demo:sql:best": "best",
                "peft:demo:sql:final": "final",
                "peft:demo:sql:step_100": "step_100",
            },
        ),
        (below("peft/sql", ADAPTER) | below("rl/sql", ADAPTER), {"peft:demo:sql": "sql", "rl:demo:sql": "sql"}),
        (below("RL/maths/1", ADAPTER), {"rl:demo:maths": "1", "rl:demo:maths:1": "1"}),
        (below("maths", ADAPTER | card("tags:\n- trl\n- grpo")), {"rl:demo:maths": "maths"}),
        (below("maths", ADAPTER | card("tags: [trl, ppo]")), {"rl:demo:maths": "maths"}),
        (below("maths", ADAPTER | card("tags: [trl, sft]")), {"peft:demo:maths": "maths"}),
        (below("peft/maths", ADAPTER | card("tags: [grpo]")), {"peft:demo:maths": "maths"}),
        (
            below("maths/1", ADAPTER) | below("maths", card("tags: [grpo]")),
            {"rl:demo:maths": "1", "rl:demo:maths:1": "1"},
        ),
        # Whole weights, with and without a word on where they come from.
        (below("full", MODEL), {"peft:demo:full": "full"}),
        (below("full", MODEL | {"config.json": QWEN3}), {"peft:unknown:full": "full"}),
        (
            below("full", MODEL | {"config.json": QWEN3} | card("base_model: Qwen/Qwen3-4B")),
            {"peft:qwen3-4b:full": "full"},
        ),
        # The base by the name that it has here, else by its own.
        (below("a", adapter_of("Qwen/Qwen3-4B")), {"peft:qwen3-4b:a": "a"}),
        (below("a", adapter_of("meta/Llama-8B")), {"peft:Llama-8B:a": "a"}),
        (below("a", adapter_of("/mnt/bases/my model")), {"peft:my-model:a": "a"}),
        (below("a", adapter_of("")), {"peft:unknown:a": "a"}),
        # An adapter that needs merging has its name too.
        (below("dora", ADAPTER | {"adapter_config.json": DEMO | {"use_dora": True}}), {"peft:demo:dora": "dora"}),
        (below("my job!/step 1", ADAPTER), {"peft:demo:my-job": "step 1", "peft:demo:my-job:step-1": "step 1"}),
        (
            below("mlx", {"adapter_config.json": {"lora_parameters": {}}, "adapters.safetensors": WEIGHTS}),
            {"peft:unknown:mlx": "mlx"},
        ),
        # Not whole yet, or something else.
        (below("sql/1", ADAPTER) | below("sql/2", ADAPTER | {"adapter_model.safetensors": WEIGHTS[:-1]}),
         {"peft:demo:sql": "1", "peft:demo:sql:1": "1"}),
        (below("sql", {"adapter_config.json": DEMO}), {}),
        (below("sql", {"adapter_config.json": "{", "adapter_model.safetensors": WEIGHTS}), {}),
        (below("sql", {"adapter_config.json": DEMO, "adapter_model.bin": b"PK\x03\x04half"}), {}),
        (below("full", {"config.json": QWEN3, "model-00001-of-00002.safetensors": WEIGHTS}), {}),
        (below("full", {"config.json": QWEN3, "pytorch_model.bin": b"PK\x03\x04half"}), {}),
        (below("full", {"config.json": {}, "model.safetensors": WEIGHTS}), {}),
        (below("sql/tmp-checkpoint-9", ADAPTER) | below(".trash", ADAPTER), {}),
        (below("sql/global_step9", {"x_model_states.pt": b"x"}), {}),
        ({"notes.txt": "x"} | below("empty", {"x.txt": "x"}), {}),
    ],
)  # fmt: skip
def test_what_is_found(build: Any, files: dict[str, Any], found: dict[str, str]) -> None:
    assert names(build(files=NOTHING | files)) == found


def test_folders_of_adapters_and_of_models(build: Any) -> None:
    folder = build(files=NOTHING | below("a", ADAPTER) | below("b", MODEL))
    found = [(trained.name.model, trained.kind, trained.path) for trained in Checkpoints([folder]).scan(KNOWN)]
    assert found == [("peft:demo:a", Kind.ADAPTER, folder / "a"), ("peft:demo:b", Kind.MODEL, folder / "b")]


def test_whole_pickled_weights(build: Any) -> None:
    archive = b"PK\x05\x06" + bytes(18)  # with nothing in it
    folder = build(files=NOTHING | below("a", {"adapter_config.json": DEMO, "adapter_model.bin": archive}))
    assert names(folder) == {"peft:demo:a": "a"}


def test_several_folders_and_missing_ones(build: Any, tmp_path: Path) -> None:
    first = build(files=NOTHING | below("a", ADAPTER), name="first")
    second = build(files=NOTHING | below("A", ADAPTER) | below("b", ADAPTER), name="rl")
    third = build(files=NOTHING | below("a", MODEL), name="third")
    assert names(tmp_path / "none", first, second, third) == {
        "peft:demo:a": "a",
        "rl:demo:A": "A",
        "rl:demo:b": "b",
    }
    found = list(Checkpoints([first, third]).scan(KNOWN))
    assert [trained.path.parent for trained in found] == [first]


def test_checkpoints_come_and_go(build: Any) -> None:
    folder = build(files=NOTHING | below("sql/1", ADAPTER))
    runs = Checkpoints([folder])

    def found() -> list[str]:
        return [trained.name.short for trained in runs.scan(KNOWN)]

    assert found() == ["peft:demo:sql", "peft:demo:sql:1"]
    half = folder / "sql" / "2"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(WEIGHTS[:100])
    shutil.copy(folder / "sql/1/adapter_config.json", half)
    assert found() == ["peft:demo:sql", "peft:demo:sql:1"]
    with (half / "adapter_model.safetensors").open("ab") as file:
        file.write(WEIGHTS[100:])
    assert found() == ["peft:demo:sql", "peft:demo:sql:1", "peft:demo:sql:2"]
    assert next(trained.path for trained in runs.scan(KNOWN)) == half
    shutil.rmtree(half)
    assert found() == ["peft:demo:sql", "peft:demo:sql:1"]
    assert half not in runs._read


def test_what_did_not_change_is_not_read_again(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build(files=NOTHING | below("sql/1", ADAPTER) | below("half", {"adapter_config.json": DEMO}))
    runs = Checkpoints([folder])
    before = list(runs.scan(KNOWN))
    monkeypatch.setattr(module, "_read", lambda path: pytest.fail(f"{path} was read again"))
    assert list(runs.scan(KNOWN)) == before


def test_nothing_is_read_before_it_is_asked_for(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Checkpoints([build(files=NOTHING | below("a", ADAPTER) | below("b", ADAPTER))]).scan(KNOWN)
    assert next(found).name.short == "peft:demo:a"
    monkeypatch.setattr(module, "_read", lambda path: None)
    assert list(found) == []
