"""The names of how weights are stored, and how many there are."""

from typing import Any

import pytest

from tests.models.conftest import QWEN3, Build, safetensors
from vllama.models.inspect import inspect

PACKED: list[tuple[dict[str, Any], dict[str, tuple[str, list[int]]], str, int]] = [
    ({}, {"w": ("F16", [10])}, "F16", 10),
    ({}, {"w": ("F32", [10]), "x": ("I64", [4])}, "F32", 10),
    (
        {"quant_method": "awq", "bits": 4},
        {"w.qweight": ("I32", [8, 2]), "w.qzeros": ("I32", [1, 2]), "w.scales": ("F16", [1, 16]), "n": ("F16", [8])},
        "AWQ",
        8 * 16 + 8,
    ),
    (
        {"quant_method": "gptq", "bits": 4},
        {"w.qweight": ("I32", [2, 8]), "w.g_idx": ("I32", [16]), "w.qzeros": ("I32", [1]), "w.scales": ("F16", [8])},
        "GPTQ",
        16 * 8,
    ),
    ({"quant_method": "gptq", "bits": 8}, {"w.qweight": ("I32", [4, 8])}, "GPTQ", 16 * 8),
    ({"quant_method": "gptq", "bits": 3}, {"w.qweight": ("I32", [3, 8])}, "GPTQ", 32 * 8),
    ({"quant_method": "fp8"}, {"w": ("F8_E4M3", [10]), "w_scale_inv": ("F32", [1])}, "FP8", 10),
    ({"quant_method": "mxfp4"}, {"e_blocks": ("U8", [2, 16]), "e_scales": ("U8", [2])}, "MXFP4", 64),
    (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}, "input_activations": None}},
        },
        {"w.weight_packed": ("I32", [4, 2]), "w.weight_scale": ("BF16", [4]), "w.weight_shape": ("I64", [2])},
        "W4A16",
        64,
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8}}},
        },
        {"w.weight": ("I8", [16]), "w.weight_scale": ("BF16", [4])},
        "W8A8",
        16,
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}},
        },
        {"w.weight": ("F8_E4M3", [16])},
        "FP8",
        16,
    ),
    (
        {
            "quant_method": "compressed-tensors",
            "format": "nvfp4-pack-quantized",
            "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}}},
        },
        {"w.weight_packed": ("U8", [16]), "w.weight_scale": ("F8_E4M3", [2])},
        "NVFP4",
        32,
    ),
    (
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        {"w.weight": ("U8", [16]), "w.weight_scale": ("F8_E4M3", [2]), "w.weight_scale_2": ("F32", [1])},
        "NVFP4",
        32,
    ),
    ({"quant_method": "modelopt", "quant_algo": "FP8"}, {"w.weight": ("F8_E4M3", [16])}, "FP8", 16),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"w": ("U8", [8]), "w.absmax": ("U8", [2])}, "NF4", 16),
    # As published: unsloth's, Intel's, AMD's, DeepSeek's, Meta's, OpenAI's.
    (
        {"_load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "load_in_4bit": True, "quant_method": "bitsandbytes"},
        {"w": ("U8", [8])},
        "FP4",
        16,
    ),
    ({"_load_in_8bit": True, "load_in_8bit": True, "quant_method": "bitsandbytes"}, {"w": ("I8", [8])}, "INT8", 8),
    (
        {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_gptq", "sym": True},
        {"w.qweight": ("I32", [2, 8]), "w.scales": ("F16", [8])},
        "AUTOROUND",
        128,
    ),
    (
        {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}},
        {"w": ("F8_E4M3", [8]), "w_scale": ("F32", [1])},
        "FP8",
        8,
    ),
    (
        {"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "fp4", "qscheme": "per_group"}]}},
        {"w": ("U8", [8]), "w_scale": ("U8", [1])},
        "MXFP4",
        16,
    ),
    ({"quant_method": "quark"}, {"w": ("F8_E4M3", [8])}, "QUARK", 8),
    (
        {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]},
        {"w": ("F8_E4M3", [8]), "w_scale_inv": ("F32", [1]), "n": ("BF16", [2])},
        "FP8",
        10,
    ),
    ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, {"w": ("F8_E4M3", [8])}, "FP8", 8),
    (
        {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
        {"gate_up_proj_blocks": ("U8", [4, 16]), "gate_up_proj_scales": ("U8", [4]), "lm_head.weight": ("BF16", [8])},
        "MXFP4",
        136,
    ),
    (
        {
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}, "targets": ["Linear"]}},
            "format": "naive-quantized",
            "kv_cache_scheme": None,
            "quant_method": "compressed-tensors",
        },
        {"w.weight": ("F8_E4M3", [16]), "w.weight_scale": ("BF16", [1])},
        "FP8",
        16,
    ),
    (
        {
            "config_groups": {},
            "format": "dense",
            "kv_cache_scheme": {"num_bits": 8},
            "quant_method": "compressed-tensors",
        },
        {"w": ("BF16", [8])},
        "BF16",
        8,
    ),
    (
        {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": True},
        {"w.qweight": ("I32", [8, 2]), "w.scales": ("F16", [1, 16])},
        "AWQ",
        128,
    ),
]


@pytest.mark.parametrize(("quantization", "tensors", "level", "count"), PACKED)
def test_quantization(
    build: Build, quantization: dict[str, Any], tensors: dict[str, tuple[str, list[int]]], level: str, count: int
) -> None:
    config = QWEN3 | ({"quantization_config": quantization} if quantization else {})
    checkpoint = inspect(build(config, {"model.safetensors": safetensors(tensors)}))
    assert checkpoint.quantization_level == level
    assert checkpoint.parameter_count == count


def test_quantization_in_other_places(build: Build) -> None:
    nested = {"architectures": ["X"], "text_config": {"quantization_config": {"quant_method": "awq"}}}
    assert inspect(build(nested, name="a")).quantization_level == "AWQ"
    modelopt = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8_PB_WO"}}
    assert inspect(build(files={"hf_quant_config.json": modelopt}, name="b")).quantization_level == "FP8"
