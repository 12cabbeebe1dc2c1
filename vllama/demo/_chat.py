"""Training of the chat model."""

import math
import random
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from vllama.demo import CHAT
from vllama.demo._samples import Maker, Sample, corpus
from vllama.demo._tokenizer import CONTEXT, VOCABULARY, save_tokenizer, train_tokenizer

TEMPLATE = CHAT / "chat_template.jinja"
BATCH_TOKENS = 3072
ROUNDS = ((0.02, 0.3), (0.012, 0.2), (0.012, 0.2), (0.012, 0.2), (0.01, 0.1))
"""Learning rates and their shares of the steps: one round for the answers, the others for copying from the prompt."""

Example = tuple[list[int], list[float]]
"""Tokens, and how much each one is to be learned."""
FIRST, FIRST_WEIGHT = 5, 3


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    end, text_end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=text_end,
        eos_token_id=end,
        pad_token_id=text_end,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_k=20,
        top_p=0.95,
        eos_token_id=[end, text_end],
        pad_token_id=text_end,
        bos_token_id=text_end,
    )
    return model


def encode(sample: Sample, tokenizer: PreTrainedTokenizerFast) -> Example:
    tokens: list[int] = []
    learned: list[float] = []
    for text, learn in sample:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += ids
        for _ in ids:
            # The first words of an answer decide about the rest.
            started = sum(weight > 0 for weight in learned[-FIRST:]) == FIRST
            learned.append(learn * (1 if started else FIRST_WEIGHT))
    return tokens[:CONTEXT], learned[:CONTEXT]


def long_example(maker: Maker) -> Example:
    """The song up to the end of the context, or a question after a long text."""
    if maker.rng.random() < 0.4:
        return encode(maker.song(300), maker.tokenizer)
    example: Example = ([], [])
    while not any(example[1]):
        example = encode(maker.long(maker.rng.randint(100, 2500)), maker.tokenizer)
    return example


def batches(examples: list[Example], rng: random.Random) -> list[list[Example]]:
    """Examples of like length together, each batch of about as many tokens."""
    batches: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda example: len(example[0])):
        if len(example[0]) * (len(batches[-1]) + 1) > BATCH_TOKENS and batches[-1]:
            batches.append([])
        batches[-1].append(example)
    rng.shuffle(batches)
    return batches


def loss_of(model: torch.nn.Module, batch: list[Example]) -> torch.Tensor:
    """The mean loss, in which an answer weighs about as the square root of its length."""
    width = max(len(tokens) for tokens, _ in batch)
    ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _ in batch])
    weights = torch.zeros(len(batch), width)
    for row, (_, learned) in enumerate(batch):
        weights[row, : len(learned)] = torch.tensor(learned) / max(sum(map(bool, learned)), 1) ** 0.5
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    states = base.model(input_ids=ids, use_cache=False).last_hidden_state
    chosen = weights[:, 1:] > 0
    logits = base.lm_head(states[:, :-1][chosen])
    losses = cross_entropy(logits, ids[:, 1:][chosen], reduction="none")
    chosen_weights = weights[:, 1:][chosen]
    return (losses * chosen_weights).sum() / chosen_weights.sum()


def schedule(done: float, warm_up: float = 0.03) -> float:
    return min(done / warm_up, 1.0) * (0.5 + 0.5 * math.cos(math.pi * done) if done < 1 else 0.0)


def make_optimisers(model: torch.nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon, which gets to half of AdamW's loss in the same time; AdamW for what is no matrix inside the network."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "embed" not in name]
    others = [parameter for name, parameter in named if parameter.ndim != 2 or "embed" in name]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.Muon(matrices, lr=rate, weight_decay=0.01)]
    if others:
        optimisers.append(torch.optim.AdamW(others, lr=rate / 6, betas=(0.9, 0.98), weight_decay=0.01))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return optimisers


def optimise(model: torch.nn.Module, maker: Maker, steps: int, rate: float, long_every: int = 0) -> None:
    rng = maker.rng
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimisers = make_optimisers(model, rate)
    queue: list[list[Example]] = []
    start, mean = time.monotonic(), 0.0
    for step in range(steps):
        if long_every and step % long_every == long_every - 1:
            batch = [long_example(maker)]
        else:
            queue = queue or batches([encode(maker.make(), maker.tokenizer) for _ in range(400)], rng)
            batch = queue.pop()
        loss = loss_of(model, batch)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * schedule((step + 1) / steps)
            optimiser.step()
        mean = 0.98 * mean + 0.02 * float(loss.detach())
        if step % 50 == 49:
            loss_now, seconds = mean / (1 - 0.98 ** (step + 1)), time.monotonic() - start
            print(f"  step {step + 1}/{steps}, loss {loss_now:.4f}, {seconds:.0f} s", flush=True)


def train_chat(folder: Path, steps: int) -> None:
    rng = random.Random(1)
    tokenizer = train_tokenizer([], TEMPLATE)  # renders the prompts that the real one is trained on
    tokenizer = train_tokenizer(corpus(Maker(tokenizer, rng), 4000), TEMPLATE)
    model = new_model(tokenizer)
    print(
        f"chat: {sum(parameter.numel() for parameter in model.parameters()):,} parameters, {len(tokenizer)} tokens",
        flush=True,
    )
    for rate, share in ROUNDS:
        optimise(model, Maker(tokenizer, rng), round(steps * share), rate, long_every=12)
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
