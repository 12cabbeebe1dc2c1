"""What does it give to read weights from the disk while the engine is still imported?

    uv run python benchmarks/prefetch.py [--gib 1.5] [--rounds 3] [--folder FOLDER] [--json FILE]

Writes a model of random weights into a temporary folder (in FOLDER: on the disk to measure). Then starts its engine
with and without reading ahead, in turn, each time with the weights dropped from the page cache.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measuring import parser, seconds, table, write
from benchmarks._server import Server
from vllama import demo
from vllama.engine.engine import Engine
from vllama.engine.prefetch import weight_files

_SIZE = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "num_key_value_heads": 8}
_HEAD = 128
_GIB = 2**30
_LOADING = re.compile(r"Loading weights took ([\d.]+) seconds")


def write_model(folder: Path, size: int) -> None:
    """A Qwen3 with as many layers as `size` bytes hold, and the demo model's tokenizer."""
    shutil.copytree(demo.CHAT, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text()) | _SIZE | {"head_dim": _HEAD}
    layers = max(1, size // _bytes(dict(_layer(0))))
    config |= {"num_hidden_layers": layers, "max_window_layers": layers, "tie_word_embeddings": True}
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], _SIZE["hidden_size"]]}
    shapes["model.norm.weight"] = [_SIZE["hidden_size"]]
    for number in range(layers):
        shapes |= _layer(number)
    _write_tensors(folder / "model.safetensors", shapes)


def _layer(number: int) -> Iterator[tuple[str, list[int]]]:
    hidden, inner = _SIZE["hidden_size"], _SIZE["intermediate_size"]
    queries, keys = _SIZE["num_attention_heads"] * _HEAD, _SIZE["num_key_value_heads"] * _HEAD
    shapes = {
        "input_layernorm": [hidden], "post_attention_layernorm": [hidden],
        "self_attn.q_norm": [_HEAD], "self_attn.k_norm": [_HEAD],
        "self_attn.q_proj": [queries, hidden], "self_attn.k_proj": [keys, hidden],
        "self_attn.v_proj": [keys, hidden], "self_attn.o_proj": [hidden, queries],
        "mlp.gate_proj": [inner, hidden], "mlp.up_proj": [inner, hidden], "mlp.down_proj": [hidden, inner],
    }  # fmt: skip
    for name, shape in shapes.items():
        yield f"model.layers.{number}.{name}.weight", shape


def _bytes(shapes: dict[str, list[int]]) -> int:
    return sum(_length(shape) for shape in shapes.values())


def _length(shape: list[int]) -> int:
    return 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def _write_tensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end := end + _length(shape)]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            data = bytearray(os.urandom(_length(shape)))
            data[1::2] = b"\x3c" * (len(data) // 2)  # the upper byte of a small number
            file.write(data)
        os.fsync(file.fileno())


def drop(folder: Path) -> None:
    """Have the page cache forget the weights."""
    for path in weight_files(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def start(server: Server, folder: Path, *, ahead: bool) -> tuple[float, float]:
    """Seconds until it was ready, and those of them in which it read weights."""
    drop(folder)
    plan = server.plan()
    engine = Engine(plan if ahead else replace(plan, meanwhile=lambda _stop: None))
    began = time.monotonic()
    try:
        await engine.start()
        took = time.monotonic() - began
        return took, float(_LOADING.findall(await asyncio.to_thread(plan.log.read_text))[-1])
    finally:
        await engine.stop()


async def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    server = Server(f"random={folder}")
    found: dict[str, list[tuple[float, float]]] = {"read ahead": [], "not read ahead": []}
    try:
        await start(server, folder, ahead=True)  # what everything else reads is in the page cache then
        for turn in range(arguments.rounds):
            for way, values in found.items():
                values.append(await start(server, folder, ahead=way == "read ahead"))
                print(f"round {turn + 1}, {way}: {values[-1]}", file=sys.stderr, flush=True)
    finally:
        server.close()
    return found


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--gib", type=float, default=1.5)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--folder", type=Path, help="where to write the model")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = Path(folder) / "random"
        write_model(model, int(arguments.gib * _GIB))
        found = asyncio.run(measure(model, arguments))
    rows = [[way, *map(seconds, zip(*values, strict=True))] for way, values in found.items()]
    print(table(["Weights", "ready after", "of it reading weights"], rows))
    write(arguments.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
