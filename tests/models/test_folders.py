"""Every kind of folder that is given as a model: what is said of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import safetensors
from tests.models.test_adapters import LORA
from vllama.errors import ConfigError
from vllama.models._folders import Kind, by_number, classify
from vllama.models.inspect import inspect

Build = Callable[..., Path]

NOTHING: dict[str, Any] = {"config.json": None, "model.safetensors": None}
WHOLE = safetensors({"a.weight": ("BF16", [8, 4])})
INDEX = {"weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}
CHECKPOINT = {"adapter_config.json": LORA, "adapter_model.safetensors": WHOLE}


def below(folder: str, files: dict[str, Any] = CHECKPOINT) -> dict[str, Any]:
    return {f"{folder}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({}, Kind.MODEL),
        ({"model.safetensors": None, "pytorch_model.bin": b"x"}, Kind.MODEL),
        ({"model.safetensors": None, "model.safetensors.index.json": INDEX}, Kind.MODEL),
        # A merged model with leftovers.
        ({"adapter_config.json": LORA}, Kind.MODEL),
        ({"adapter_config.json": LORA, "adapter_model.bin": b"x"}, Kind.MODEL),
        (CHECKPOINT | {"model.safetensors.index.json": INDEX}, Kind.MODEL),
        # What a trainer leaves beside it.
        ({"optimizer.pt": b"x", "trainer_state.json": {}, "global_step100/x_model_states.pt": b"x"}, Kind.MODEL),
        (below("checkpoint-10"), Kind.MODEL),
        # An adapter, alone, with its base's config, and with training states.
        (NOTHING | CHECKPOINT, Kind.ADAPTER),
        ({"model.safetensors": None} | CHECKPOINT, Kind.ADAPTER),
        (NOTHING | CHECKPOINT | below("checkpoint-10"), Kind.ADAPTER),
        (NOTHING | CHECKPOINT | {"global_step10/mp_rank_00_model_states.pt": b"x"}, Kind.ADAPTER),
        (NOTHING | {"adapter_config.json": "half-written"}, Kind.ADAPTER),
    ],
)
def test_models_and_adapters_are_told_apart(build: Build, files: dict[str, Any], kind: Kind) -> None:
    assert classify(build(files=files)) is kind


MESSAGES: list[tuple[str, dict[str, Any], str]] = [
    ("nothing", NOTHING, "is empty: put the model's config.json and *.safetensors files there"),
    (
        "an adapter",
        NOTHING | CHECKPOINT,
        "is a LoRA adapter of org/base, not a model: serve it as --lora NAME={path}@BASE",
    ),
    (
        "a model and an adapter",
        CHECKPOINT,
        "holds a whole model and a LoRA adapter (adapter_model.safetensors) side by side: if the adapter is merged "
        "into the model, remove adapter_model.safetensors; else move the adapter_* files to a folder of their own",
    ),
    (
        "an adapter without settings",
        NOTHING | {"adapter_model.safetensors": WHOLE},
        "has an adapter's weights (adapter_model.safetensors) without adapter_config.json: it is half-written or "
        "half-copied: wait for the training to save it, or copy it again",
    ),
    (
        "an adapter of an image generator",
        NOTHING | {"pytorch_lora_weights.safetensors": WHOLE},
        "is a LoRA adapter of an image generator: vLLM serves language and embedding models only",
    ),
    (
        "FSDP",
        {"model.safetensors": None, "pytorch_model_fsdp_0/__0_0.distcp": b"x"},
        "holds the sharded state of a training with FSDP, not a model: join it with `accelerate merge-weights`, or "
        "save the model with save_pretrained",
    ),
    ("inside of FSDP", NOTHING | {"__0_0.distcp": b"x", ".metadata": b"x"}, "holds the sharded state of a training wi"),
    (
        "DeepSpeed",
        {"model.safetensors": None, "zero_to_fp32.py": "", "global_step100/x_model_states.pt": b"x", "latest": "x"},
        "holds the sharded state of a training with DeepSpeed, not a model: join it with `python zero_to_fp32.py . "
        "OUTPUT --safe_serialization` and put config.json and the tokenizer beside it",
    ),
    ("DeepSpeed without its script", NOTHING | {"global_step1/x_optim_states.pt": b"x", "latest": "x"}, "DeepSpeed"),
    ("inside of DeepSpeed", NOTHING | {"zero_pp_rank_0_mp_rank_00_optim_states.pt": b"x"}, "a training with DeepSpeed"),
    (
        "Megatron",
        NOTHING | {"latest_checkpointed_iteration.txt": "100", "iter_0000100/mp_rank_00/model_optim_rng.pt": b"x"},
        "holds the state of a training with Megatron, not a model: convert it to a transformers model with Megatron's "
        "tools",
    ),
    (
        "a run",
        NOTHING | below("checkpoint-20") | below("checkpoint-100") | {"runs/events": b"x", "README.md": ""},
        "is a training's output with 2 checkpoints: name one of them: {path}/checkpoint-100",
    ),
    (
        "a run with one checkpoint",
        NOTHING | below("checkpoint-20"),
        "is a training's output with one checkpoint: name one of them: {path}/checkpoint-20",
    ),
    ("a folder around a model", NOTHING | below("x"), "is a folder around a model: name the folder inside: {path}/x"),
    ("a folder of models", NOTHING | below("b") | below("a"), "holds 2 models: name one of them: {path}/a"),
    (
        "a repository in the cache",
        NOTHING | below("snapshots/0123", {"config.json": {}}) | {"refs/main": "0123"},
        "is the Hugging Face cache's folder of a repository: name the repository: model",
    ),
    ("diffusers", NOTHING | {"model_index.json": {}} | below("unet"), "is a diffusers pipeline: vLLM serves language"),
    ("GGUF", NOTHING | {"m.gguf": b"x"}, "holds only GGUF files: vLLM needs the safetensors model they were made from"),
    ("GGUF with a config", {"model.safetensors": None, "m.gguf": b"x"}, "holds only GGUF files"),
    (
        "Mistral",
        NOTHING | {"params.json": {}, "consolidated.safetensors": WHOLE},
        "is in Mistral's own format, without config.json: download the repository's config.json as well",
    ),
    (
        "Meta",
        NOTHING | {"params.json": {}, "consolidated.00.pth": b"x"},
        "is in Meta's own format (*.pth): download the model in its transformers format",
    ),
    (
        "cut up for vLLM",
        {"model.safetensors": None, "model-rank-0-part-0.safetensors": WHOLE},
        "holds weights that vLLM has cut up for several GPUs (sharded_state): serve the model that they were made from",
    ),
    ("TensorFlow", {"model.safetensors": None, "tf_model.h5": b"x"}, "holds weights for TensorFlow only"),
    ("Flax", {"model.safetensors": None, "flax_model.msgpack": b"x"}, "holds weights for Flax only"),
    ("ONNX", {"model.safetensors": None, "model.onnx": b"x"}, "holds weights for ONNX only"),
    (
        "PyTorch",
        NOTHING | {"last.ckpt": b"x"},
        "holds PyTorch files of a training (*.pt, *.pth, *.ckpt), not a model: save the model with save_pretrained, "
        "which writes config.json and *.safetensors",
    ),
    ("no weights", {"model.safetensors": None}, "holds no weights: put the *.safetensors files beside config.json"),
    (
        "no weights of an embedder",
        {"model.safetensors": None, "modules.json": [], "1_Pooling/config.json": {}},
        "holds no weights",
    ),
    ("optimiser only", {"model.safetensors": None, "optimizer.safetensors": WHOLE}, "holds no weights"),
    (
        "no config",
        {"config.json": None},
        "has weights but no config.json: copy config.json and the tokenizer from where they came from",
    ),
    ("a tokenizer", NOTHING | {"tokenizer.json": {}}, "holds only a tokenizer: name the folder that holds config.json"),
    (
        "something",
        NOTHING | {"x.txt": "x"},
        "has neither config.json nor adapter_config.json: name the folder that holds config.json and *.safetensors",
    ),
    (
        "a missing shard",
        {"model.safetensors": None, "model.safetensors.index.json": INDEX},
        "lacks model-00001-of-00001.safetensors, named by model.safetensors.index.json: the download is incomplete",
    ),
    (
        "missing shards without an index",
        {"model.safetensors": None, "model-00002-of-00003.safetensors": WHOLE},
        "lacks model-00001-of-00003.safetensors and 1 more: the download is incomplete: run it again",
    ),
    (
        "missing pickled shards",
        {"model.safetensors": None, "pytorch_model-00001-of-00002.bin": b"x"},
        "lacks pytorch_model-00002-of-00002.bin: the download is incomplete: run it again",
    ),
    ("half a pickled file", {"model.safetensors": None, "pytorch_model.bin": b"PK\x03\x04"}, "is not a whole file of"),
    ("a cut weight file", {"model.safetensors": WHOLE[:-1]}, "/model.safetensors has"),
    (
        "a pointer",
        {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"},
        "/model.safetensors is a Git LFS pointer, not the weights: run `git lfs pull` in {path}, or download it again",
    ),
]


@pytest.mark.parametrize(("files", "told"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_what_is_said_of_a_folder(build: Build, files: dict[str, Any], told: str) -> None:
    folder = build(files=files)
    messages = []
    for _ in range(2):
        with pytest.raises(ConfigError) as raised:
            inspect(folder)
        assert raised.value.advice
        messages.append(str(raised.value))
    assert messages[0].startswith(str(folder))
    assert told.format(path=folder) in messages[0]
    assert messages[0] == messages[1]


def test_a_link_that_leads_nowhere(build: Build) -> None:
    folder = build(files={"model.safetensors": None})
    (folder / "model.safetensors").symlink_to("../blob")
    with pytest.raises(ConfigError, match=r"model.safetensors is a link to \.\./blob, which is not there"):
        inspect(folder)


def test_whole_shards_without_an_index(build: Build) -> None:
    shards = {f"model-0000{number}-of-00002.safetensors": WHOLE for number in (1, 2)}
    assert inspect(build(files={"model.safetensors": None} | shards)).parameter_count == 64


def test_numbers_sort_by_value() -> None:
    names = ["checkpoint-9", "checkpoint-100", "b", "checkpoint-10", "a", "20"]
    assert sorted(names, key=by_number) == ["a", "b", "checkpoint-9", "checkpoint-10", "checkpoint-100", "20"]
