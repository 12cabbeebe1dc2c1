from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import QWEN3, safetensors
from tests.models.test_adapters import LORA, adapter_files, lora_tensors
from vllama import demo
from vllama.errors import ConfigError
from vllama.models.adapters import UnservableAdapterError, inspect_adapter
from vllama.models.fit import check_fit
from vllama.models.inspect import inspect

Build = Callable[..., Path]
ADAPTER = Path(demo.__file__).parent / "adapter"


def base_tensors(inputs: int = 64, outputs: int = 64, layers: int = 2, prefix: str = "model.") -> dict[str, Any]:
    layers_of = {f"{prefix}layers.{at}.self_attn.q_proj.weight": ("BF16", [outputs, inputs]) for at in range(layers)}
    return layers_of | {f"{prefix}embed_tokens.weight": ("BF16", [100, 64])}


def misfit(build: Build, adapter: dict[str, Any], base: dict[str, Any]) -> str:
    found = inspect_adapter(build(files=adapter_files(LORA, adapter), name="adapter"))
    model = inspect(build(QWEN3, {"model.safetensors": safetensors(base)}, name="base"))
    try:
        check_fit(found, "mine", model)
    except ConfigError as error:
        return error.message.partition(": ")[2]
    return ""


def test_the_demo_adapter_fits_its_base() -> None:
    check_fit(inspect_adapter(ADAPTER), "parrot", inspect(demo.CHAT))


def test_the_demo_adapter_fits_no_other(build: Build) -> None:
    model = inspect(build(QWEN3, {"model.safetensors": safetensors(base_tensors(32, 48, layers=3))}))
    with pytest.raises(ConfigError) as raised:
        check_fit(inspect_adapter(ADAPTER), "parrot", model)
    assert str(raised.value) == (
        f"the adapter parrot was not trained on {model.path}: its q_proj is 128 by 256, and there it is 32 by 48: "
        f"name its base: --lora parrot={ADAPTER}@BASE"
    )


EMBEDDING = "base_model.model.model.embed_tokens."


@pytest.mark.parametrize(
    ("adapter", "base", "reason"),
    [
        (lora_tensors(), base_tensors(), ""),
        (lora_tensors(64, 128), base_tensors(64, 128), ""),
        (lora_tensors(layers=3), base_tensors(), "it changes layer 3, and there are 2"),
        (lora_tensors(32), base_tensors(), "its q_proj is 32 by 64, and there it is 64 by 64"),
        (lora_tensors(64, 32), base_tensors(), "its q_proj is 32 by 64, and there it is 64 by 64"),
        # Another name before the layers, as multimodal models have, and layers that are turned, as GPT-2's.
        (lora_tensors(), base_tensors(prefix="language_model.model."), ""),
        (lora_tensors(64, 128), base_tensors(128, 64), ""),
        # One layer of the same name may be the vision part's.
        (lora_tensors(), base_tensors() | base_tensors(16, 16, prefix="vision."), ""),
        # Packed weights have no shape of their own; unknown modules are left to the engine.
        (lora_tensors(), {"model.layers.1.self_attn.q_proj.weight": ("U8", [2048, 1])}, ""),
        (lora_tensors(), {"model.layers.1.self_attn.q_proj.qweight": ("I32", [8, 64])}, ""),
        (lora_tensors(), {"model.layers.1.self_attn.qkv_proj.weight": ("BF16", [8, 8])}, ""),
        (lora_tensors() | {EMBEDDING + "lora_embedding_A": ("BF16", [8, 100])}, base_tensors(), ""),
        (
            lora_tensors() | {EMBEDDING + "lora_embedding_A": ("BF16", [8, 104])},
            base_tensors(),
            "it was trained with 104 tokens, and there are 100",
        ),
        # vLLM would pass this over in silence.
        (
            lora_tensors() | {EMBEDDING + "base_layer.weight": ("BF16", [102, 64])},
            base_tensors(),
            "it was trained with 102 tokens, and there are 100",
        ),
        (lora_tensors() | {EMBEDDING + "base_layer.weight": ("BF16", [100, 64])}, base_tensors(), ""),
    ],
)
def test_fits(build: Build, adapter: dict[str, Any], base: dict[str, Any], reason: str) -> None:
    assert misfit(build, adapter, base) == reason


def test_more_tokens_without_their_embedding(build: Build) -> None:
    tensors = {EMBEDDING + "lora_embedding_A": ("BF16", [8, 102]), EMBEDDING + "lora_embedding_B": ("BF16", [64, 8])}
    adapter = inspect_adapter(build(files=adapter_files(LORA, tensors), name="adapter"))
    model = inspect(build(QWEN3, {"model.safetensors": safetensors(base_tensors())}, name="base"))
    for merging in (False, True):
        with pytest.raises(ConfigError) as raised:
            check_fit(adapter, "mine", model, merging=merging)
        assert str(raised.value) == (
            "the adapter mine lacks the embedding of its tokens: it was trained with 102 tokens, and there are 100: "
            "save it again where it was trained, with save_embedding_layers=True"
        )


def test_more_tokens_are_for_a_merge(build: Build) -> None:
    tensors = lora_tensors() | {EMBEDDING + "base_layer.weight": ("BF16", [102, 64])}
    adapter = inspect_adapter(build(files=adapter_files(LORA, tensors), name="adapter"))
    model = inspect(build(QWEN3, {"model.safetensors": safetensors(base_tensors())}, name="base"))
    with pytest.raises(UnservableAdapterError, match="run `vllama merge mine`, which makes a model of it and its base"):
        check_fit(adapter, "mine", model)
