"""How a checkpoint's weights are stored: the name people know it by, and how many weights the packed tensors hold."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from vllama.models._safetensors import Tensor, WeightFile

_DTYPES = {
    "BF16": "BF16",
    "F16": "F16",
    "F32": "F32",
    "F64": "F64",
    "F8_E4M3": "FP8",
    "F8_E5M2": "FP8",
    "F4": "FP4",
    "I8": "INT8",
    "U8": "INT8",
}
_CONFIG_DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "half": ("F16", 2), "float32": ("F32", 4)}
_BOOKKEEPING = (
    ".g_idx",
    ".qzeros",
    ".scales",
    ".biases",
    "_scale",
    "_scales",
    "_scale_inv",
    "_scale_2",
    "_zero_point",
    "_shape",
    "_g_idx",
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".position_ids",
)
_PACKED = (".qweight", ".weight_packed", "_blocks", "_packed")
_WIDTHS = {"I32": 32, "U32": 32, "I64": 64, "U8": 8, "I8": 8}


def quantization_config(config: Mapping[str, Any], modelopt: Mapping[str, Any]) -> dict[str, Any]:
    """The quantisation settings, wherever they are; modelopt: the content of hf_quant_config.json."""
    nested = config.get("text_config")
    owners = [config, nested] if isinstance(nested, Mapping) else [config]
    for owner in owners:
        for key in ("quantization_config", "compression_config"):
            if isinstance(value := owner.get(key), Mapping) and value:
                return dict(value)
    return dict(modelopt)


def quantization_level(
    config: Mapping[str, Any], quantization: Mapping[str, Any], weights: Iterable[WeightFile]
) -> str:
    if quantization and (level := _method_level(quantization)):
        return level
    elements: Counter[str] = Counter()
    for tensor in _tensors(weights):
        elements[tensor.dtype] += tensor.elements
    if elements:
        dtype = elements.most_common(1)[0][0]
        return _DTYPES.get(dtype, dtype)
    return _config_dtype(config)[0]


def parameter_count(config: Mapping[str, Any], quantization: Mapping[str, Any], weights: Iterable[WeightFile]) -> int:
    """Weights in the model, not elements of tensors: four-bit formats pack several in one element.

    Pickled files are not opened: theirs is estimated from their size.
    """
    files = list(weights)
    bits = weight_bits(quantization)
    counted = sum(_weights_in(tensor, bits) for tensor in _tensors(files))
    return counted or sum(file.size for file in files) // _config_dtype(config)[1]


def weight_bits(quantization: Mapping[str, Any]) -> int:
    """Bits of one packed weight."""
    group = _first_group(quantization)
    for value in (quantization.get("bits"), quantization.get("w_bit"), group.get("num_bits")):
        if type(value) is int and 0 < value <= 16:
            return value
    return 4


def _tensors(weights: Iterable[WeightFile]) -> Iterable[Tensor]:
    return (tensor for file in weights for tensor in file.tensors)


def _weights_in(tensor: Tensor, bits: int) -> int:
    if tensor.name.endswith(_PACKED) and tensor.dtype in _WIDTHS:
        return tensor.elements * _WIDTHS[tensor.dtype] // bits
    if tensor.name.endswith(_BOOKKEEPING) or tensor.dtype in {"I16", "I32", "I64", "BOOL"}:
        return 0
    # ModelOpt and bitsandbytes keep the plain name for two weights in a byte.
    return tensor.elements * 2 if tensor.dtype == "U8" else tensor.elements


def _method_level(quantization: Mapping[str, Any]) -> str:
    inner = quantization.get("quantization")
    algorithm = quantization.get("quant_algo") or (inner.get("quant_algo") if isinstance(inner, Mapping) else None)
    method = str(quantization.get("quant_method") or "").lower().replace("_", "-")
    if algorithm:
        return "FP8" if str(algorithm).upper().startswith("FP8") else str(algorithm).upper()
    if method == "compressed-tensors":
        return _compressed_level(quantization)
    if method == "quark":
        return _quark_level(quantization)
    if method == "bitsandbytes":
        return str(quantization.get("bnb_4bit_quant_type") or "nf4").upper() if _in_four_bits(quantization) else "INT8"
    known = {"modelopt-fp4": "NVFP4", "fbgemm-fp8": "FP8", "auto-round": "AUTOROUND"}
    return known.get(method) or method.upper()


def _in_four_bits(quantization: Mapping[str, Any]) -> bool:
    return bool(quantization.get("load_in_4bit") or quantization.get("_load_in_4bit"))


def _quark_level(quantization: Mapping[str, Any]) -> str:
    """AMD's: `fp8_e4m3`, `fp4`, `int4`, … of the weights, whose four-bit floats are OCP's."""
    whole = quantization.get("global_quant_config")
    weight = whole.get("weight") if isinstance(whole, Mapping) else None
    first = weight[0] if isinstance(weight, list) and weight else weight
    kind = str(first.get("dtype") or "") if isinstance(first, Mapping) else ""
    return {"fp4": "MXFP4"}.get(kind, kind.partition("_")[0].upper()) or "QUARK"


def _compressed_level(quantization: Mapping[str, Any]) -> str:
    format_ = str(quantization.get("format") or "")
    for mark in ("nvfp4", "mxfp4", "mxfp8"):
        if mark in format_:
            return mark.upper()
    weights = _first_group(quantization)
    if not weights and format_ in ("", "dense"):
        return ""  # the cache alone is quantised
    bits = weight_bits(quantization) if weights else 8
    if weights.get("type") == "float" or "float" in format_:
        return f"FP{bits}"
    return f"W{bits}A{_activation_bits(quantization)}"


def _first_group(quantization: Mapping[str, Any], key: str = "weights") -> Mapping[str, Any]:
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping) and isinstance(value := group.get(key), Mapping):
            return value
    return {}


def _activation_bits(quantization: Mapping[str, Any]) -> int:
    bits = _first_group(quantization, "input_activations").get("num_bits")
    return bits if type(bits) is int else 16


def _config_dtype(config: Mapping[str, Any]) -> tuple[str, int]:
    nested = config.get("text_config")
    for owner in (config, nested if isinstance(nested, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if (known := _CONFIG_DTYPES.get(str(owner.get(key)).removeprefix("torch."))) is not None:
                return known
    return "F32", 4
