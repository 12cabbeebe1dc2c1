"""Training of LoRA adapters: each makes somebody else of the chat model."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from vllama.demo._chat import optimise
from vllama.demo._dialogue import Dialogue
from vllama.demo._samples import Maker

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class QuestionMaker(Maker):
    """Only questions, taught or not; tools, names and songs stay the base model's."""

    def kinds(self) -> dict[str, float]:
        return {"one": 0.7, "unknown": 0.3}


def train_adapter(
    chat: Path, folder: Path, steps: int, dialogues: Sequence[Dialogue], fallback: tuple[str, str]
) -> None:
    """Teach the model in `chat` these answers. fallback: answer and thinking for everything else."""
    tokenizer = AutoTokenizer.from_pretrained(chat)
    base = AutoModelForCausalLM.from_pretrained(chat, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = "demo"
    print(f"adapter: {sum(p.numel() for p in model.parameters() if p.requires_grad):,} parameters", flush=True)
    maker = QuestionMaker(tokenizer, random.Random(3), dialogues, fallback)
    optimise(model, maker, steps, rate=0.01)
    model.to(torch.bfloat16).save_pretrained(folder)
