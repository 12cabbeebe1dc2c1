"""The small files of a model folder."""

import json
from pathlib import Path
from typing import Any

import msgspec

from vllama.errors import ConfigError

_LARGEST_JSON = 50_000_000


class _AddedToken(msgspec.Struct):
    content: str = ""


class _Tokenizer(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that may be absent; empty where there is none or it is no such thing."""
    value = _read(path)
    return value if isinstance(value, dict) else {}


def read_json_list(path: Path) -> list[Any]:
    value = _read(path)
    return value if isinstance(value, list) else []


def require_config(path: Path) -> dict[str, Any]:
    """config.json, with at least one architecture."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid JSON", "restore it from where the model came from") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read", error.strerror or str(error)) from error
    if isinstance(config, dict) and is_mlx(config):
        raise ConfigError(f"{path} is quantised for MLX, which vLLM cannot read", "use the original safetensors model")
    architectures = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ConfigError(
            f"{file} names no architecture", "vLLM needs the `architectures` list of a transformers model"
        )
    return {str(key): value for key, value in config.items()}


def read_tokens(path: Path, tokenizer_config: dict[str, Any]) -> frozenset[str] | None:
    """The tokenizer's added tokens, or None where its files do not list them."""
    tokens = _tokenizer_json_tokens(path / "tokenizer.json")
    decoder = tokenizer_config.get("added_tokens_decoder")
    for entry in decoder.values() if isinstance(decoder, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            tokens.add(entry["content"])
    return frozenset(tokens) or None


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            return None
        # Not msgspec: configs hold Infinity and NaN.
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _tokenizer_json_tokens(path: Path) -> set[str]:
    try:
        tokenizer = msgspec.json.decode(path.read_bytes(), type=_Tokenizer)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()
    return {token.content for token in tokenizer.added_tokens}


def is_mlx(config: dict[str, Any]) -> bool:
    """MLX writes `quantization` beside (or without) a quantization_config that names no method."""
    settings, other = config.get("quantization"), config.get("quantization_config")
    return (
        isinstance(settings, dict)
        and "bits" in settings
        and "group_size" in settings
        and not (isinstance(other, dict) and other.get("quant_method"))
    )
