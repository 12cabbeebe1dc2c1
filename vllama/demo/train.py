"""Make the three demo models again, from the dialogues in `dialogues.py`.

    uv venv -p 3.11
    uv pip install --torch-backend cpu torch==2.13.0 transformers==5.19.0 peft -e .
    python vllama/demo/train.py [--out DIR] [chat] [embed] [adapter]

Takes about 20 minutes on two CPU cores. The seed is fixed, but other versions and machines give other weights, so
run the tests that use the engine before you keep them. The chat template and the model cards are not made but
kept: they are read from the folders beside this file.
"""

import argparse
from pathlib import Path

import torch

from vllama.demo import ADAPTER, CHAT, EMBED
from vllama.demo._adapter import train_adapter
from vllama.demo._chat import train_chat
from vllama.demo._embed import train_embed
from vllama.demo.dialogues import ADAPTER_DIALOGUES, ADAPTER_FALLBACK

MODELS = ("chat", "embed", "adapter")


def train(name: str, out: Path, steps: int | None) -> None:
    torch.manual_seed(1)
    if name == "chat":
        train_chat(out / CHAT.name, steps or 3500)
    elif name == "embed":
        train_embed(out / EMBED.name, steps or 800)
    else:
        fallback = (ADAPTER_FALLBACK, "Squawk! What is that?")
        train_adapter(out / CHAT.name, out / ADAPTER.name, steps or 300, ADAPTER_DIALOGUES, fallback)


def finish(folder: Path, card: str) -> None:
    """Put our model card where peft puts its own; let others read what safetensors wrote for its owner alone."""
    (folder / "README.md").write_text(card, encoding="utf-8")
    for file in filter(Path.is_file, folder.rglob("*")):
        file.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"which to make: {', '.join(MODELS)} (default: all)")
    parser.add_argument("--out", type=Path, default=CHAT.parent, help="where the folders go")
    parser.add_argument("--steps", type=int, help="train shorter or longer")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    for name in arguments.models or MODELS:
        card = (CHAT.parent / name / "README.md").read_text(encoding="utf-8")
        train(name, arguments.out, arguments.steps)
        finish(arguments.out / name, card)


if __name__ == "__main__":
    main()
