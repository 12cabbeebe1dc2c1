"""How the makers of a model would have it sampled: its generation_config.json, in Ollama's words."""

from collections.abc import Mapping
from typing import Any

_OPTIONS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
_WITHOUT_CHANCE = {"temperature": 0.0}
_MOST = 1e6
"""Nothing that is meant is above it, and all below it is a number that every option can hold."""


def sampling_defaults(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Options by Ollama's names, for what generation_config.json says of them; how long a reply is it does not decide.

    What cannot be meant (texts, infinities, what is below zero) is passed over: the file is none of the user's.
    """
    named = {option: generation.get(name) for name, option in _OPTIONS.items()}
    options = {option: value for option, value in named.items() if _is_number(value)}
    if isinstance(top_k := options.get("top_k"), float):
        options["top_k"] = int(top_k)
    if generation.get("do_sample") is False:
        return _WITHOUT_CHANCE | {name: value for name, value in options.items() if name == "repeat_penalty"}
    return options


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST
