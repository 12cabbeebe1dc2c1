import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WIDTHS = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1, "I8": 1, "I32": 4, "I64": 8}

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rope_theta": 1000000,
    "vocab_size": 100,
}


def safetensors(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = WIDTHS[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(end)


Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Make a checkpoint folder: build(config, {"file": content, ...}); None as content leaves the file out."""

    def make(config: dict[str, Any] | None = None, files: dict[str, Any] | None = None, name: str = "model") -> Path:
        folder = tmp_path / name
        contents: dict[str, Any] = {
            "config.json": QWEN3 if config is None else config,
            "model.safetensors": safetensors({"a.weight": ("BF16", [8, 4]), "b.weight": ("BF16", [8])}),
        }
        for file, content in (contents | (files or {})).items():
            if content is None:
                continue
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        folder.mkdir(exist_ok=True)
        return folder

    return make
