"""LoRA adapters: what a folder of one holds, and whether vLLM can load it. Read from its small files and headers."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllama.errors import ConfigError
from vllama.models._card import card_value
from vllama.models._folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, classify, is_adapter, list_folder
from vllama.models._safetensors import Tensor, WeightFile, read_header, read_pickled

__all__ = [
    "RANKS",
    "Adapter",
    "UnservableAdapterError",
    "inspect_adapter",
    "is_adapter",
    "merge_advice",
    "read_adapter_tensors",
    "refusal",
]

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank (`MaxLoRARanks` in vllm/config/lora.py)."""

_WAIT = "wait for the training to save it, or copy it again"
# As vLLM reads them: PEFT saves an adapter with these initialisations as an ordinary one.
_PLAIN_INITS = {"gaussian", "eva", "orthogonal", "mica", "lora_ga"}
# PEFT repeats these on the base's weights when it loads the adapter.
_REPEATED_INITS = re.compile(r"pissa(_niter_\d+)?|olora")
_CLASSIFIERS = {"classifier", "score"}
_IGNORED = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
# Kinds of PEFT that add tokens or layers: nothing of them can be added to the base's weights.
_UNMERGEABLE = {
    "ADAPTION_PROMPT",
    "CARTRIDGE",
    "CPT",
    "MULTITASK_PROMPT_TUNING",
    "POLY",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "XLORA",
}


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter.

    base: as base_model_name_or_path or the folder's card tells it, "" where they do not. rank: the highest of its
    modules. targets: target_modules. trouble: why vLLM cannot load it, as the end of a sentence that begins with "it";
    "" where it can. mergeable: whether PEFT can add it to its base's weights.
    """

    path: Path
    base: str
    rank: int
    size: int
    digest: str
    modified: datetime
    targets: tuple[str, ...] = ()
    trouble: str = ""
    mergeable: bool = True


class UnservableAdapterError(ConfigError):
    """An adapter whose folder and base are in order, and vLLM cannot load it."""


def inspect_adapter(path: Path) -> Adapter:
    """Read an adapter's folder; raises ConfigError with what to do where it is none, or not whole."""
    try:
        return _inspect(path)
    except OSError as error:
        where = error.filename or path
        raise ConfigError(f"{where} cannot be read ({error.strerror})", "check its permissions and the disk") from None


def refusal(adapter: Adapter, name: str, argument: str = "") -> UnservableAdapterError | None:
    """Why it cannot be served under this name; None where it can. argument: what `vllama merge` knows it by."""
    if not adapter.trouble:
        return None
    advice = merge_advice(argument or name) if adapter.mergeable else _without_merging(adapter.trouble)
    return UnservableAdapterError(f"the adapter {name} cannot be served: {adapter.trouble}", advice)


def merge_advice(argument: str) -> str:
    return f"run `vllama merge {argument}`, which makes a model of it and its base"


def _without_merging(trouble: str) -> str:
    if "MLX" in trouble:
        return "fuse it with `mlx_lm.fuse --de-quantize` where it was made, and serve the result"
    return "it cannot be merged into its base either: train a LoRA adapter instead"


def _inspect(path: Path) -> Adapter:
    names = list_folder(path)
    if ADAPTER_CONFIG not in names:
        classify(path)
        raise ConfigError(f"{path} is a whole model, not a LoRA adapter", f"serve it as --model NAME={path}")
    settings = _read_settings(path / ADAPTER_CONFIG)
    if "lora_parameters" in settings and "r" not in settings:
        return _mlx_adapter(path, settings)
    weights = _read_weights(path)
    kind = str(settings.get("peft_type") or "LORA").upper()
    if kind == "LORA":
        _require(path, settings)
    config_bytes = (path / ADAPTER_CONFIG).read_bytes()
    digest = hashlib.sha256(config_bytes + f"\0{weights.path.name}\0{weights.size}\0".encode() + weights.fingerprint)
    base = settings.get("base_model_name_or_path")
    return Adapter(
        path=path,
        base=base if isinstance(base, str) and base else card_value(path, "base_model"),
        rank=_rank(settings) if kind == "LORA" else 0,
        size=len(config_bytes) + weights.size,
        digest=digest.hexdigest(),
        modified=_modified(path / ADAPTER_CONFIG, weights.path),
        targets=_strings(settings.get("target_modules")),
        trouble=", and ".join(_troubles(kind, settings, weights.tensors)),
        mergeable=_is_mergeable(kind, settings),
    )


def read_adapter_tensors(adapter: Adapter) -> tuple[Tensor, ...]:
    """What the header of its weights lists; nothing for pickled ones. Raises ConfigError."""
    return _read_weights(adapter.path).tensors


def _modified(*files: Path) -> datetime:
    return datetime.fromtimestamp(max(file.stat().st_mtime for file in files), tz=UTC)


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid JSON", f"it is half-written or damaged: {_WAIT}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{file} holds no settings of an adapter", f"it is damaged: {_WAIT}")
    return settings


def _read_weights(path: Path) -> WeightFile:
    file = next((path / name for name in ADAPTER_WEIGHTS if (path / name).exists()), None)
    if file is None and any(path.glob("adapter_model*-of-*")):
        raise ConfigError(
            f"{path} holds an adapter in several files, of which vLLM and PEFT read none",
            f"save it again as one {ADAPTER_WEIGHTS[0]}",
        )
    if file is None:
        raise ConfigError(
            f"{path} has {ADAPTER_CONFIG} and no weights ({ADAPTER_WEIGHTS[0]})", f"it is half-written: {_WAIT}"
        )
    if file.suffix != ".safetensors":
        return read_pickled(file)
    weights = read_header(file)
    if not weights.tensors:
        raise ConfigError(f"{file} holds no tensors", "the adapter was saved without its weights: save it again")
    return weights


def _require(path: Path, settings: Mapping[str, Any]) -> None:
    """What vLLM does not load an adapter without."""
    missing = [key for key in ("r", "lora_alpha", "target_modules") if key not in settings]
    if missing:
        raise ConfigError(
            f"{path / ADAPTER_CONFIG} lacks {' and '.join(f'`{key}`' for key in missing)}",
            "it is no LoRA adapter's as PEFT writes it: save the adapter again with save_pretrained",
        )
    rank, patterns = settings["r"], settings.get("rank_pattern") or {}
    if not isinstance(patterns, dict) or not all(type(one) is int and one > 0 for one in (rank, *patterns.values())):
        raise ConfigError(
            f"{path / ADAPTER_CONFIG} names no usable rank (`r`: {rank!r})",
            "a rank is a whole number above 0: save the adapter again with save_pretrained",
        )


def _rank(settings: Mapping[str, Any]) -> int:
    ranks: list[int] = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
    return max(ranks)


def _mlx_adapter(path: Path, settings: Mapping[str, Any]) -> Adapter:
    file = path / "adapters.safetensors"
    if not file.exists():
        raise ConfigError(f"{path} has {ADAPTER_CONFIG} and no weights ({file.name})", f"it is half-written: {_WAIT}")
    weights = read_header(file)
    return Adapter(
        path=path,
        base=str(settings.get("model") or ""),
        rank=0,
        size=weights.size,
        digest=hashlib.sha256(weights.fingerprint).hexdigest(),
        modified=_modified(path / ADAPTER_CONFIG, file),
        targets=(),
        trouble="it was made with MLX, whose adapters vLLM does not load",
        mergeable=False,
    )


def _troubles(kind: str, settings: Mapping[str, Any], tensors: tuple[Tensor, ...]) -> list[str]:
    """Everything for which vLLM refuses it. Its weights are looked at only where its settings look fine."""
    if kind != "LORA":
        return [f"it is an adapter of the kind {kind}, and vLLM loads LoRA only"]
    return list(_setting_troubles(settings)) or list(_tensor_troubles(tensors))


def _setting_troubles(settings: Mapping[str, Any]) -> Iterator[str]:
    init = settings.get("init_lora_weights", True)
    if settings.get("use_dora"):
        yield "it uses DoRA, which vLLM does not load"
    if saved := [name for name in _strings(settings.get("modules_to_save")) if name not in _CLASSIFIERS]:
        yield f"it brings whole modules of its own (modules_to_save: {', '.join(saved)})"
    if settings.get("trainable_token_indices"):
        yield "it brings trained tokens (trainable_token_indices)"
    if settings.get("lora_bias") or settings.get("bias", "none") != "none":
        yield "it brings trained biases"
    if settings.get("alora_invocation_tokens"):
        yield "it is an activated LoRA (aLoRA), which vLLM does not load"
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        yield f"it builds on weights that {init} changed when the training began (init_lora_weights)"
    if settings.get("layer_replication"):
        yield "it repeats layers of its base (layer_replication)"
    for key, what in (("use_bdlora", "block-diagonal LoRA"), ("use_qalora", "QALoRA")):
        if settings.get(key):
            yield f"it uses {what}, which vLLM does not load"
    if (rank := _rank(settings)) > RANKS[-1]:
        yield f"its rank is {rank} and vLLM loads {RANKS[-1]} at most"


def _tensor_troubles(tensors: tuple[Tensor, ...]) -> Iterator[str]:
    unknown = [tensor.name for tensor in tensors if not _is_lora(tensor.name)]
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        yield f"it brings weights that are no LoRA ({unknown[0].removeprefix('base_model.model.')}{others})"


def _is_lora(name: str) -> bool:
    """Whether vLLM knows what to do with an adapter's tensor of this name."""
    *_, module, last = ("", *name.split("."))
    return (
        name.endswith(_IGNORED)
        or last in {"lora_embedding_A", "lora_embedding_B"}
        or (last == "weight" and module in {"lora_A", "lora_B"})
        or (last in {"weight", "bias"} and module in _CLASSIFIERS)
    )


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value)) if isinstance(value, list) else ()


def _is_mergeable(kind: str, settings: Mapping[str, Any]) -> bool:
    init = settings.get("init_lora_weights", True)
    changed = isinstance(init, str) and init.lower() not in _PLAIN_INITS and not _REPEATED_INITS.fullmatch(init.lower())
    return kind not in _UNMERGEABLE and not changed and not settings.get("alora_invocation_tokens")
