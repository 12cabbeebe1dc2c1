"""A checkpoint's config.json: one value under the many names the model families give it."""

from collections.abc import Iterator, Mapping
from typing import Any

ASSUMED_CONTEXT_LENGTH = 2048
"""What vLLM assumes where a config names none."""

_NESTED = ("text_config", "language_config", "llm_config")
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# YaRN's and Llama 3's max_position_embeddings is already scaled; so is Gemma 3's.
_SCALED_ALREADY = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default", "mrope"}

# What transformers fills in where a published config.json leaves it out.
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "gemma3_text": {
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
    },
    "gemma": {"max_position_embeddings": 8192},
    "gemma2": {"max_position_embeddings": 8192},
    "gemma3n_text": {"max_position_embeddings": 32768},
    "gemma4_text": {"max_position_embeddings": 131072},
    "mllama_text_model": {"max_position_embeddings": 131072},
    "ministral3": {"max_position_embeddings": 262144},
    "llama": {
        "max_position_embeddings": 2048,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 32000,
    },
    "mistral": {
        "max_position_embeddings": 131072,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 32000,
    },
}


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part: nested in multimodal models, twice so in those with a thinker."""
    thinker = config.get("thinker_config")
    outer = thinker if isinstance(thinker, Mapping) else config
    nested = next((outer[key] for key in _NESTED if isinstance(outer.get(key), Mapping)), None)
    if nested is None:
        return outer
    return {**_DEFAULTS.get(str(nested.get("model_type")), {}), **nested}


def part(config: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A nested part (vision, audio) of the config or of its thinker; empty if there is none."""
    for owner in (config, config.get("thinker_config")):
        for key in keys:
            if isinstance(owner, Mapping) and isinstance(value := owner.get(key), Mapping) and value:
                return value
    return {}


def number(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first positive whole number under these keys; of a list (one per layer) the largest."""
    for key in keys:
        value = config.get(key)
        numbers = [one for one in (value if isinstance(value, list) else [value]) if type(one) is int and one > 0]
        if numbers:
            return max(numbers)
    return None


def context_length(config: Mapping[str, Any], *, tokenizer_limit: Any = None, sentence_limit: Any = None) -> int:
    """The longest sequence, derived as vLLM derives `--max-model-len`.

    tokenizer_limit: the tokenizer's model_max_length, which binds embedding models with absolute positions.
    sentence_limit: max_seq_length of sentence-transformers, which replaces everything.
    """
    text = text_config(config)
    limits = [limit for key in _CONTEXT_KEYS if (limit := _length(text.get(key))) is not None]
    derived = _length(text.get("model_max_length")) or min(limits, default=None)
    if config.get("position_embedding_type") == "absolute" and (limit := _length(tokenizer_limit)):
        derived = min(derived or limit, limit)
    derived = int((derived or ASSUMED_CONTEXT_LENGTH) * _rope_factor(text))
    if _length(sentence_limit):
        return int(sentence_limit)
    if any(_rope_type(rope) in {"longrope", "su"} for rope in _ropes(text)):
        return number(text, "original_max_position_embeddings") or derived
    return derived


def rope_frequency_base(config: Mapping[str, Any]) -> float | None:
    text = text_config(config)
    named = [text.get("rope_theta"), text.get("rotary_emb_base"), *(rope.get("rope_theta") for rope in _ropes(text))]
    return next((base for value in named if (base := _real(value)) is not None), None)


def _rope_factor(text: Mapping[str, Any]) -> float:
    if "gemma3" in str(text.get("model_type")):
        return 1.0
    factors = [_real(rope.get("factor")) for rope in _ropes(text) if _rope_type(rope) not in _SCALED_ALREADY]
    usable = [factor for factor in factors if factor is not None and 1 <= factor < 1000]
    return usable[-1] if usable else 1.0


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Rope settings under their old and their new name; the new one may hold one per kind of layer."""
    for key in ("rope_parameters", "rope_scaling"):
        value = text.get(key)
        if isinstance(value, Mapping) and value:
            inner = [one for one in value.values() if isinstance(one, Mapping)]
            yield from inner or [value]


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _length(value: Any) -> int | None:
    """A usable length; tokenizers write 1e30 for none."""
    usable = type(value) in {int, float} and 0 < value < 1_000_000_000
    return int(value) if usable else None
