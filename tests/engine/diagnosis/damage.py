"""Ways to spoil a copy of a model's folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]


def nothing(_folder: Path) -> None:
    """For faults that lie elsewhere."""


def config(**changes: Any) -> Damage:
    """Change fields of config.json; None removes one."""

    def damage(folder: Path) -> None:
        fields = json.loads((folder / "config.json").read_text()) | changes
        kept = {name: value for name, value in fields.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return damage


def overwrite(name: str, text: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)

    return damage


def without(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def cut_off(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def foreign_tensors(folder: Path) -> None:
    """Let one layer's tensors belong to a layer that the model does not have."""
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b"model.layers.1.mlp", b"model.layers.9.mlp")
    weights.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def broken_header(folder: Path) -> None:
    """Break off the JSON of which the header consists, and leave its length."""
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    length = int.from_bytes(data[:8], "little")
    data[8 + length // 2 : 8 + length] = b" " * (length - length // 2)
    weights.write_bytes(data)


def lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {f"tensor{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def own_code(folder: Path) -> None:
    """Make it a model that comes with code, and this with an import that leads nowhere."""
    classes = {"AutoConfig": "code.HomemadeConfig", "AutoModelForCausalLM": "model_code.HomemadeForCausalLM"}
    config(model_type="homemade", architectures=["HomemadeForCausalLM"], auto_map=classes)(folder)
    code = "from transformers import Qwen3Config\n\nclass HomemadeConfig(Qwen3Config):\n    model_type = 'homemade'\n"
    (folder / "code.py").write_text(code)
    (folder / "model_code.py").write_text("import a_package_of_nobody\n")
