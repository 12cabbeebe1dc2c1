import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import QWEN3, safetensors
from vllama import demo
from vllama.errors import ConfigError
from vllama.models.adapters import inspect_adapter, is_adapter, refusal

Build = Callable[..., Path]
ADAPTER = Path(demo.__file__).parent / "adapter"

LORA = {
    "peft_type": "LORA",
    "base_model_name_or_path": "org/base",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
}


def lora_tensors(inputs: int = 64, outputs: int = 64, rank: int = 8, layers: int = 2) -> dict[str, Any]:
    place = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    return {
        place.format(layer, side): ("BF16", shape)
        for layer in range(layers)
        for side, shape in (("A", [rank, inputs]), ("B", [outputs, rank]))
    }


def adapter_files(settings: Any = None, tensors: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "config.json": None,
        "model.safetensors": None,
        "adapter_config.json": LORA if settings is None else settings,
        "adapter_model.safetensors": safetensors(lora_tensors() if tensors is None else tensors),
    }


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        inspect_adapter(path)
    assert raised.value.advice
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_adapter(build: Build) -> None:
    folder = build(files=adapter_files(LORA | {"rank_pattern": {"q_proj": 32}, "use_rslora": True}))
    adapter = inspect_adapter(folder)
    assert is_adapter(folder)
    assert (adapter.path, adapter.base, adapter.rank, adapter.trouble) == (folder, "org/base", 32, "")
    assert adapter.targets == ("q_proj", "v_proj")
    assert adapter.size == sum(file.stat().st_size for file in folder.iterdir())
    newest = max(file.stat().st_mtime for file in folder.iterdir())
    assert adapter.modified.timestamp() == pytest.approx(newest, abs=1e-5)
    assert refusal(adapter, "mine") is None


def test_the_demo_adapter() -> None:
    adapter = inspect_adapter(ADAPTER)
    assert (adapter.base, adapter.rank, adapter.trouble) == ("demo", 8, "")
    assert is_adapter(ADAPTER)
    assert not is_adapter(demo.CHAT)


def test_pickled_weights(build: Build) -> None:
    files = adapter_files() | {"adapter_model.safetensors": None, "adapter_model.bin": b"weights"}
    first = inspect_adapter(build(files=files))
    other = inspect_adapter(build(files=files | {"adapter_model.bin": b"WEIGHTS"}, name="other"))
    assert first.trouble == ""
    assert first.digest != other.digest


def test_the_digest_is_of_settings_and_weights(build: Build) -> None:
    folders = [
        build(files=adapter_files(), name="a"),
        build(files=adapter_files(), name="b"),
        build(files=adapter_files(LORA | {"lora_alpha": 99}), name="c"),
        build(files=adapter_files(tensors=lora_tensors(layers=3)), name="d"),
    ]
    digests = [inspect_adapter(folder).digest for folder in folders]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "lora_ga"])
def test_initialisations_that_leave_the_base_as_it_is(build: Build, init: Any) -> None:
    assert inspect_adapter(build(files=adapter_files(LORA | {"init_lora_weights": init}))).trouble == ""


def test_a_classifiers_head_is_served(build: Build) -> None:
    tensors = lora_tensors() | {"base_model.model.score.weight": ("BF16", [2, 64])}
    adapter = inspect_adapter(build(files=adapter_files(LORA | {"modules_to_save": ["score"]}, tensors)))
    assert adapter.trouble == ""


MERGE = "run `vllama merge mine`, which makes a model of it and its base"
NO_MERGE = "it cannot be merged into its base either: train a LoRA adapter instead"
TROUBLES = [
    ({"use_dora": True}, "it uses DoRA, which vLLM does not load", MERGE),
    (
        {"modules_to_save": ["lm_head", "score"]},
        "it brings whole modules of its own (modules_to_save: lm_head)",
        MERGE,
    ),
    (
        {"use_dora": True, "modules_to_save": "embed_tokens"},
        "it uses DoRA, which vLLM does not load, and it brings whole modules of its own "
        "(modules_to_save: embed_tokens)",
        MERGE,
    ),
    ({"trainable_token_indices": [1]}, "it brings trained tokens (trainable_token_indices)", MERGE),
    ({"bias": "all"}, "it brings trained biases", MERGE),
    ({"lora_bias": True}, "it brings trained biases", MERGE),
    (
        {"init_lora_weights": "pissa_niter_16"},
        "it builds on weights that pissa_niter_16 changed when the training began (init_lora_weights)",
        MERGE,
    ),
    (
        {"init_lora_weights": "loftq"},
        "it builds on weights that loftq changed when the training began (init_lora_weights)",
        NO_MERGE,
    ),
    ({"layer_replication": [[0, 2]]}, "it repeats layers of its base (layer_replication)", MERGE),
    ({"use_bdlora": {"x": 1}}, "it uses block-diagonal LoRA, which vLLM does not load", MERGE),
    ({"use_qalora": True}, "it uses QALoRA, which vLLM does not load", MERGE),
    ({"alora_invocation_tokens": [1]}, "it is an activated LoRA (aLoRA), which vLLM does not load", NO_MERGE),
    ({"r": 1024}, "its rank is 1024 and vLLM loads 512 at most", MERGE),
    ({"rank_pattern": {"q_proj": 513}}, "its rank is 513 and vLLM loads 512 at most", MERGE),
    ({"peft_type": "IA3"}, "it is an adapter of the kind IA3, and vLLM loads LoRA only", MERGE),
    ({"peft_type": "LOHA"}, "it is an adapter of the kind LOHA, and vLLM loads LoRA only", MERGE),
    ({"peft_type": "ADALORA"}, "it is an adapter of the kind ADALORA, and vLLM loads LoRA only", MERGE),
    ({"peft_type": "PROMPT_TUNING"}, "it is an adapter of the kind PROMPT_TUNING, and vLLM loads LoRA only", NO_MERGE),
    ({"peft_type": "PREFIX_TUNING"}, "it is an adapter of the kind PREFIX_TUNING, and vLLM loads LoRA only", NO_MERGE),
]


@pytest.mark.parametrize(("settings", "trouble", "advice"), TROUBLES)
def test_what_vllm_does_not_load(build: Build, settings: dict[str, Any], trouble: str, advice: str) -> None:
    adapter = inspect_adapter(build(files=adapter_files(LORA | settings)))
    assert adapter.trouble == trouble
    error = refusal(adapter, "mine")
    assert str(error) == f"the adapter mine cannot be served: {trouble}: {advice}"


def test_other_kinds_need_no_rank(build: Build) -> None:
    adapter = inspect_adapter(build(files=adapter_files({"peft_type": "IA3", "target_modules": "all-linear"})))
    assert (adapter.rank, adapter.base, adapter.targets) == (0, "", ("all-linear",))


@pytest.mark.parametrize(
    ("tensors", "trouble"),
    [
        (
            {"base_model.model.model.embed_tokens.weight": ("BF16", [8, 4])},
            "it brings weights that are no LoRA (model.embed_tokens.weight)",
        ),
        (
            {"base_model.model.x.lora_magnitude_vector.weight": ("F32", [4]), "base_model.model.y.ia3_l": ("F32", [4])},
            "it brings weights that are no LoRA (x.lora_magnitude_vector.weight and 1 more)",
        ),
        ({"base_model.model.lm_head.base_layer.weight": ("BF16", [8, 4])}, ""),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": ("BF16", [8, 4])}, ""),
    ],
)
def test_weights_that_the_settings_do_not_tell_of(build: Build, tensors: dict[str, Any], trouble: str) -> None:
    assert inspect_adapter(build(files=adapter_files(tensors=lora_tensors() | tensors))).trouble == trouble


def test_an_adapter_of_mlx(build: Build) -> None:
    files = {
        "config.json": None,
        "model.safetensors": None,
        "adapter_config.json": {"lora_parameters": {"rank": 8}, "model": "org/base"},
        "adapters.safetensors": safetensors({"model.layers.0.q.lora_a": ("F32", [4, 8])}),
    }
    adapter = inspect_adapter(build(files=files))
    assert adapter.base == "org/base"
    assert str(refusal(adapter, "mine")) == (
        "the adapter mine cannot be served: it was made with MLX, whose adapters vLLM does not load: "
        "fuse it with `mlx_lm.fuse --de-quantize` where it was made, and serve the result"
    )
    del files["adapters.safetensors"]
    assert "no weights (adapters.safetensors)" in refused(build(files=files, name="half"))


def test_one_that_has_no_name_yet_is_merged_by_its_folder(build: Build) -> None:
    adapter = inspect_adapter(build(files=adapter_files(LORA | {"use_dora": True})))
    assert "`vllama merge mine=/x@demo`" in str(refusal(adapter, "mine", "mine=/x@demo"))


def test_the_card_tells_the_base_where_the_settings_do_not(build: Build) -> None:
    settings = LORA | {"base_model_name_or_path": None}
    card = "---\nbase_model:\n- org/base # the small one\nlicense: mit\n---\n"
    assert inspect_adapter(build(files=adapter_files(settings) | {"README.md": card})).base == "org/base"
    assert inspect_adapter(build(files=adapter_files(settings), name="without")).base == ""


WHOLE = safetensors(lora_tensors())
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
HALF = [
    ({"adapter_config.json": "{"}, "adapter_config.json is not valid JSON: it is half-written or damaged: wait for"),
    ({"adapter_config.json": "[" * 100_000}, "is not valid JSON"),
    ({"adapter_config.json": "[]"}, "holds no settings of an adapter"),
    ({"adapter_config.json": None}, "has an adapter's weights (adapter_model.safetensors) without adapter_config.json"),
    ({"adapter_config.json": {}}, "lacks `r` and `lora_alpha` and `target_modules`"),
    ({"adapter_config.json": {"r": 8, "lora_alpha": 8}}, "lacks `target_modules`"),
    ({"adapter_config.json": LORA | {"r": 0}}, "names no usable rank (`r`: 0)"),
    ({"adapter_config.json": LORA | {"r": None}}, "names no usable rank"),
    ({"adapter_config.json": LORA | {"rank_pattern": {"q": "8"}}}, "names no usable rank"),
    ({"adapter_config.json": LORA | {"rank_pattern": [8]}}, "names no usable rank"),
    (
        {"adapter_model.safetensors": None},
        "has adapter_config.json and no weights (adapter_model.safetensors): it is half-written",
    ),
    ({"adapter_model.safetensors": WHOLE[:-1]}, "where its header promises"),
    ({"adapter_model.safetensors": WHOLE[:50]}, "is not a whole safetensors file"),
    ({"adapter_model.safetensors": b""}, "is not a whole safetensors file"),
    ({"adapter_model.safetensors": safetensors({})}, "holds no tensors"),
    ({"adapter_model.safetensors": LFS}, "is a Git LFS pointer, not the weights: run `git lfs pull`"),
    ({"adapter_model.safetensors": None, "adapter_model.bin": LFS}, "is a Git LFS pointer"),
    ({"adapter_model.safetensors": None, "adapter_model.bin": b""}, "adapter_model.bin is not a whole file"),
    (
        {"adapter_model.safetensors": None, "adapter_model.bin": b"PK\x03\x04half"},
        "adapter_model.bin is not a whole fil",
    ),
    (
        {"adapter_model.safetensors": None, "adapter_model-00001-of-00002.safetensors": WHOLE},
        "holds an adapter in several files",
    ),
]


@pytest.mark.parametrize(("files", "told"), HALF)
def test_half_written_folders(build: Build, files: dict[str, Any], told: str) -> None:
    assert told in refused(build(files=adapter_files() | files))


def test_a_whole_model_is_no_adapter(build: Build) -> None:
    folder = build()
    assert refused(folder) == f"{folder} is a whole model, not a LoRA adapter: serve it as --model NAME={folder}"
    assert "holds only GGUF files" in refused(build({}, {"model.safetensors": None, "x.gguf": b"x"}, "gguf"))


def test_no_folder(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "is empty" in refused(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert "name its folder instead" in refused(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_what_cannot_be_read(build: Build, file: str) -> None:
    folder = build(files=adapter_files() | {file: None})
    (folder / file).mkdir()
    assert f"{file} cannot be read" in refused(folder)


def test_garbled_settings_are_told_or_read(build: Build) -> None:
    """Whatever JSON a setting holds, there is no traceback."""
    keys = ("peft_type", "base_model_name_or_path", "target_modules", "modules_to_save", "init_lora_weights", "bias")
    for number, (key, value) in enumerate((key, value) for key in keys for value in (None, 3, [], {}, "x", [None])):
        folder = build(files=adapter_files(json.dumps(LORA | {key: value})), name=f"m{number}")
        assert inspect_adapter(folder).path == folder


def test_an_adapter_beside_its_bases_config_is_an_adapter(build: Build) -> None:
    assert is_adapter(build(files=adapter_files() | {"config.json": QWEN3}))
