"""What one engine takes of memory, estimated from its checkpoint before anything of it is loaded.

vLLM itself measures when it starts and gives what is left to its cache; the estimate decides beforehand whether a model
fits at all and how much to leave to others, and errs on the side of too much.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllama.engine.adapters import slots
from vllama.engine.command import context_tokens, user_arguments, user_value
from vllama.engine.profile import Profile
from vllama.models._config import number, text_config
from vllama.models.inspect import Checkpoint
from vllama.scheduling.plan import AdapterLimits
from vllama.settings import Settings

GIB = 2**30
CUDA_PROCESS = GIB
"""A process's CUDA context with PyTorch's and vLLM's kernels and workspaces, some 0.5 GiB, and as much again for CUDA
graphs, which vLLM measures at 0.2 to 0.6 GiB for models of up to 14B parameters."""
_CPU_PROCESSES = 2 * GIB
"""The API server, EngineCore and the worker with torch and vLLM imported: 0.6, 0.6 and 0.7 GiB resident."""
_ENCODERS = GIB
"""For models that see or hear: their largest input goes through the encoder when the engine starts."""
_BATCHED_TOKENS = 8192
"""In one step of an engine. vLLM's default is 2048 below 70 GiB of GPU memory and 8192 up to 160 (arg_utils.py)."""
_SEQUENCES = 256
_SHORT_CONTEXT = 4096
"""Below this a chat is no use: what does not leave room for so much does not fit."""


@dataclass(frozen=True)
class Footprint:
    """Bytes, over all GPUs that the engine is split over.

    fixed: weights and everything else but the KV cache. token: of the cache, for each token. windowed: the same, of
    layers that look back no further than `window` tokens. context: the longest that may be asked for, in tokens.
    asked: whether that is the user's choice and no less will do. generates: whether it runs many sequences at length.
    """

    fixed: int
    token: int
    windowed: int
    window: int
    context: int
    asked: bool
    generates: bool

    @property
    def minimum(self) -> int:
        """To run at all."""
        return self.fixed + self.cache(self.context if self.asked else min(self.context, _SHORT_CONTEXT))

    def cache(self, tokens: int) -> int:
        """For one sequence of so many tokens."""
        # A window's layers keep what one step adds to it, too (SlidingWindowSpec in vllm/v1/kv_cache_interface.py).
        return self.token * tokens + self.windowed * min(tokens, self.window + _BATCHED_TOKENS)

    def longest(self, available: int) -> int:
        """The longest context that fits, in whole 1024 tokens; 0 where not even one does."""
        fitting = (length for length in range(self.context // 1024, 0, -1) if self._fits(length * 1024, available))
        return 1024 * next(fitting, 0)

    def _fits(self, tokens: int, available: int) -> bool:
        return self.fixed + self.cache(tokens) <= available


def footprint(
    checkpoint: Checkpoint, settings: Settings, profile: Profile, gpus: int, limits: AdapterLimits | None
) -> Footprint:
    """What a model's engine takes. gpus: over how many it is split. limits: the adapters it has room for."""
    user = user_arguments(settings)
    asked = context_tokens(user_value(user, "--max-model-len") or "auto")
    full, windowed, window = _cache(checkpoint, _cache_bytes(user), gpus)
    fixed = _weights(checkpoint, user) + _slots(checkpoint, limits, settings)
    fixed += _CPU_PROCESSES if profile is Profile.CPU else gpus * CUDA_PROCESS
    return Footprint(
        fixed=fixed + gpus * _activations(checkpoint),
        token=full,
        windowed=windowed,
        window=window,
        context=min(asked or checkpoint.context_length, checkpoint.context_length),
        asked=asked is not None,
        generates="completion" in checkpoint.capabilities,
    )


def _weights(checkpoint: Checkpoint, user: list[str]) -> int:
    """As on the disk, except that vLLM turns 32-bit ones into 16 bits unless it is told not to (`_get_and_verify_dtype`
    in vllm/config/model.py)."""
    wide = user_value(user, "--dtype") in ("float", "float32")
    if checkpoint.quantization_level == "F32" and not wide:
        return checkpoint.size // 2
    return checkpoint.size * (2 if wide and checkpoint.quantization_level in ("BF16", "F16") else 1)


def _cache_bytes(user: list[str]) -> int:
    kept = user_value(user, "--kv-cache-dtype") or "auto"
    if kept.startswith("fp8") or kept == "int8":
        return 1
    return 4 if user_value(user, "--dtype") in ("float", "float32") else 2


def _cache(checkpoint: Checkpoint, width: int, gpus: int) -> tuple[int, int, int]:
    """Bytes for each token in layers that see everything and in those that see a window, and the window.

    Layers with a state of fixed size instead of a cache (Mamba, linear attention) count as if they had one.
    """
    text = text_config(checkpoint.config)
    layers = checkpoint.block_count or 32
    if (latent := number(text, "kv_lora_rank")) is not None:
        # Multi-head latent attention keeps one vector for all heads, the same on every GPU.
        return gpus * layers * (latent + (number(text, "qk_rope_head_dim") or 0)) * width, 0, 0
    heads = checkpoint.head_count_kv or 32
    # One head is the least that a GPU holds: with more GPUs than heads, heads are kept more than once.
    layer = 2 * max(heads, gpus) * _head_size(checkpoint, text) * width
    window = number(text, "sliding_window")
    sliding = _sliding_layers(text, layers) if window else 0
    return layer * (layers - sliding), layer * sliding, window or 0


def _head_size(checkpoint: Checkpoint, text: Mapping[str, Any]) -> int:
    named = number(text, "head_dim")
    return named or (number(text, "hidden_size", "n_embd", "d_model") or 4096) // (checkpoint.head_count or 32)


def _sliding_layers(text: Mapping[str, Any], layers: int) -> int:
    """Where the config does not say how many, all layers are taken to see everything."""
    if isinstance(kinds := text.get("layer_types"), list):
        return sum(kind == "sliding_attention" for kind in kinds)
    # Gemma 3's configs of old: every so many layers one sees everything.
    pattern = number(text, "sliding_window_pattern") or (6 if "gemma3" in str(text.get("model_type")) else None)
    return layers - layers // pattern if pattern else 0


def _activations(checkpoint: Checkpoint) -> int:
    """The peak of one step: the widest layer's inputs and outputs, and the logits of every sequence twice over."""
    text = text_config(checkpoint.config)
    hidden = number(text, "hidden_size", "n_embd", "d_model") or 4096
    widest = max(checkpoint.feed_forward_length or 0, number(text, "moe_intermediate_size") or 0, hidden)
    batched = min(_BATCHED_TOKENS, max(checkpoint.context_length, 2048))
    logits = 2 * _SEQUENCES * (checkpoint.vocab_size or 0) * 4 if "completion" in checkpoint.capabilities else 0
    senses = _ENCODERS if {"vision", "audio"} & set(checkpoint.capabilities) else 0
    return batched * (2 * widest + 4 * hidden) * 2 + logits + senses


def _slots(checkpoint: Checkpoint, limits: AdapterLimits | None, settings: Settings) -> int:
    """Adapters' slots are made for the highest rank and for every module, whatever an adapter changes."""
    if limits is None:
        return 0
    text = text_config(checkpoint.config)
    hidden = number(text, "hidden_size", "n_embd", "d_model") or 4096
    size = _head_size(checkpoint, text)
    queries, keys = size * (checkpoint.head_count or 32), size * (checkpoint.head_count_kv or 32)
    experts = number(text, "num_experts", "n_routed_experts", "num_local_experts") or 1
    inner = number(text, "moe_intermediate_size") if experts > 1 else None
    inner = inner or checkpoint.feed_forward_length or 4 * hidden
    attention = 2 * (hidden + queries) + 2 * (hidden + keys)
    feed_forward = 3 * (hidden + inner) * experts
    return slots(settings) * limits.rank * (checkpoint.block_count or 32) * (attention + feed_forward) * 2
