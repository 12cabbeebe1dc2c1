"""Ollama's `options` into vLLM's sampling parameters.

Ollama's defaults are sent explicitly. What is neutral to it and to vLLM is left out: our own engines do not read the
model's `generation_config.json`, which could say otherwise.
"""

from collections.abc import Mapping
from typing import Any

from vllama.errors import ApiError

DEFAULTS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama 0.33's, where they differ from "off"."""

_FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
_INTEGERS = (
    "num_predict", "top_k", "repeat_last_n", "seed", "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu",
    "num_thread", "draft_num_predict",
)  # fmt: skip
_BOOLEANS = ("use_mmap",)
KINDS = dict.fromkeys(_FLOATS, "float") | dict.fromkeys(_INTEGERS, "int") | dict.fromkeys(_BOOLEANS, "bool")
"""Go's names for what the options are, which Ollama's errors use; `stop` is a list of texts."""
_INEXPRESSIBLE = {"typical_p": 1.0, "num_keep": 4, "draft_num_predict": 4}
"""Options about the reply that vLLM has no word for, with the values that mean nothing. Those that place the engine on
the machine (`num_gpu`, `num_thread`, …) are not the client's to choose here and not worth a word."""
LARGEST_LIMIT = 2**31 - 1
"""Of tokens to generate, under OpenAI's and Anthropic's names: more means as many as there can be."""
_LARGEST_FLOAT = 3.4028234663852886e38
_LARGEST_INTEGER = 2**63 - 1


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a meaning, with `null` ones left out and integers truncated as Ollama does.

    Raises ApiError 500, Ollama's status and words, for an option of the wrong type, or a number that its type cannot
    hold. Unknown names are ignored. A single string as `stop`, which Ollama refuses, is a list of one.
    """
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if value is None:
            continue
        if name in _FLOATS:
            checked[name] = float(_number(name, value, "float32", _LARGEST_FLOAT))
        elif name in _INTEGERS:
            checked[name] = int(_number(name, value, "integer", _LARGEST_INTEGER))
        elif name in _BOOLEANS:
            if not isinstance(value, bool):
                raise ApiError(500, f'option "{name}" must be of type boolean')
        elif name == "stop":
            checked[name] = _stop_strings(value)
    return checked


def inexpressible(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the checked options that ask for something which vLLM cannot do."""
    return {name: options[name] for name, off in _INEXPRESSIBLE.items() if options.get(name, off) != off}


def _number(name: str, value: Any, kind: str, largest: float) -> int | float:
    # Ollama reads integers of up to 64 bits and single-precision floats; neither holds an infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -largest <= value <= largest:
        raise ApiError(500, f'option "{name}" must be of type {kind}')
    return value


def _stop_strings(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise ApiError(500, 'option "stop" must be of type array')
    if not all(isinstance(text, str) for text in texts):
        raise ApiError(500, 'option "stop" must be of an array of strings')
    return [text for text in texts if text]


def sampling_parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a vLLM request for checked options, within the ranges that vLLM accepts.

    `num_predict` below 0, and 0, mean "until the model stops": vLLM then fills up to the context length.
    """
    merged = {**DEFAULTS, **options}
    parameters: dict[str, Any] = {
        "temperature": min(max(merged["temperature"], 0.0), 2.0),
        "top_k": max(merged["top_k"], 0),
        # vLLM refuses 0, which in Ollama leaves only the likeliest token.
        "top_p": min(merged["top_p"], 1.0) if merged["top_p"] > 0 else 1e-6,
    }
    if min_p := min(max(merged.get("min_p", 0.0), 0.0), 1.0):
        parameters["min_p"] = min_p
    if merged.get("num_predict", -1) > 0:
        parameters["max_tokens"] = merged["num_predict"]
    if merged.get("seed", -1) != -1:
        parameters["seed"] = merged["seed"]
    if merged.get("stop"):
        parameters["stop"] = merged["stop"]
    if merged.get("repeat_last_n") != 0:
        parameters |= _penalties(merged)
    return parameters


def _penalties(options: Mapping[str, Any]) -> dict[str, Any]:
    penalties: dict[str, Any] = {}
    if (repeat := options.get("repeat_penalty", 1.0)) > 0 and repeat != 1.0:
        penalties["repetition_penalty"] = repeat
    for name in ("presence_penalty", "frequency_penalty"):
        if value := min(max(options.get(name, 0.0), -2.0), 2.0):
            penalties[name] = value
    return penalties
