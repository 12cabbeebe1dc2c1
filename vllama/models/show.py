"""What Ollama's endpoints tell of a model: from what is known of it to the objects that clients read."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from vllama.models._safetensors import Tensor
from vllama.models.inspect import Checkpoint
from vllama.models.model import Model
from vllama.models.modelfile_text import licences, modelfile_text, parameters_text, template_of
from vllama.translate.template import NO_TEMPLATE

_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "MXFP4": 38}


def description(
    model: Model,
    *,
    modified: datetime,
    system: str = "",
    options: Mapping[str, Any] | None = None,
    tensors: Iterable[Tensor] = (),
) -> dict[str, Any]:
    """The reply of /api/show, in Ollama's order. What is empty is left out.

    system: shown in place of the model's own. options: shown as the Modelfile's, but in its text alone.
    """
    if system:
        model = replace(model, modelfile=replace(model.modelfile, system=system))
    shown = {
        "license": "\n".join(licences(model)),
        "modelfile": modelfile_text(model, options or {}),
        "parameters": parameters_text(model.parameters),
        "template": template_of(model) or (NO_TEMPLATE if model.checkpoint else None),
        "system": model.modelfile.system,
        "details": details(model, lengths=False),
        "messages": [{"role": role, "content": content} for role, content in model.modelfile.messages],
        "model_info": model_info(model),
        "tensors": [{"name": one.name, "type": one.dtype, "shape": one.shape} for one in tensors],
        "capabilities": model.capabilities,
        "modified_at": modified.isoformat(),
        "requires": model.modelfile.requires,
    }
    return {key: value for key, value in shown.items() if value}


def details(model: Model, *, lengths: bool) -> dict[str, Any]:
    """`details` of /api/tags; /api/show and /api/ps leave the two lengths out."""
    checkpoint = model.checkpoint
    shown: dict[str, Any] = {
        "parent_model": model.parent,
        "format": checkpoint.format if checkpoint else "",
        "family": checkpoint.model_type if checkpoint else "",
        "families": checkpoint.families if checkpoint else None,
        "parameter_size": format_parameter_count(checkpoint.parameter_count) if checkpoint else "",
        "quantization_level": checkpoint.quantization_level if checkpoint else "",
    }
    known = {
        "context_length": checkpoint.context_length if checkpoint else model.context_length,
        "embedding_length": checkpoint.embedding_length if checkpoint else None,
    }
    return shown | {key: value for key, value in known.items() if lengths and value}


def model_info(model: Model) -> dict[str, Any]:
    """`model_info` of /api/show: GGUF's keys.

    Clients look up `<architecture>.context_length` and `.embedding_length` without asking whether they are there.
    """
    if model.checkpoint is not None:
        return _checkpoint_info(model.checkpoint)
    lengths = {"unknown.context_length": model.context_length or 0, "unknown.embedding_length": 0}
    return {"general.architecture": "unknown"} | lengths


def _checkpoint_info(checkpoint: Checkpoint) -> dict[str, Any]:
    architecture = checkpoint.model_type
    general = {
        "general.architecture": architecture,
        "general.file_type": _FILE_TYPES.get(checkpoint.quantization_level),
        "general.parameter_count": checkpoint.parameter_count,
    }
    own = {
        "context_length": checkpoint.context_length,
        "embedding_length": checkpoint.embedding_length or 0,
        "block_count": checkpoint.block_count,
        "attention.head_count": checkpoint.head_count,
        "attention.head_count_kv": checkpoint.head_count_kv,
        "feed_forward_length": checkpoint.feed_forward_length,
        "rope.freq_base": checkpoint.rope_frequency_base,
        "vocab_size": checkpoint.vocab_size,
        "vision.block_count": checkpoint.vision_block_count,
    }
    info = general | {f"{architecture}.{key}": value for key, value in own.items()}
    return {key: value for key, value in info.items() if value is not None}


def format_parameter_count(count: int) -> str:
    """`7.6B`, `8B`, `22.57M`, `137M`, `45K`, as Ollama prints it."""
    if count >= 1_000_000_000:
        return f"{count // 1_000_000_000}B" if count % 1_000_000_000 == 0 else f"{count / 1e9:.1f}B"
    if count >= 1_000_000:
        return f"{count // 1_000_000}M" if count % 1_000_000 == 0 else f"{count / 1e6:.2f}M"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)
