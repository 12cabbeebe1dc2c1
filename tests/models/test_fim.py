"""Filling in the middle: which models can, and how they are asked."""

from pathlib import Path

from tests.each import each
from vllama.models.fim import fim_format, fim_prompt

QWEN = {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|im_start|>"}
STAR = {"<fim_prefix>", "<fim_suffix>", "<fim_middle>"}
DEEPSEEK = {f"<\uff5cfim\u2581{name}\uff5c>" for name in ("begin", "hole", "end")}
MISTRAL = {"[SUFFIX]", "[PREFIX]", "[INST]"}
LLAMA = {"\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"}


@each(
    ("path", "tokens", "prompt"),
    [
        ("/m/Qwen2.5-Coder-7B", QWEN, "<|fim_prefix|>a{}<|fim_suffix|>{b}<|fim_middle|>"),
        ("/hub/models--bigcode--starcoder2-3b/snapshots/0f", STAR, "<fim_prefix>a{}<fim_suffix>{b}<fim_middle>"),
        ("/m/deepseek-coder-6.7b-base", DEEPSEEK,
         "<\uff5cfim\u2581begin\uff5c>a{}<\uff5cfim\u2581hole\uff5c>{b}<\uff5cfim\u2581end\uff5c>"),
        ("/m/Codestral-22B-v0.1", MISTRAL, "[SUFFIX]{b}[PREFIX]a{}"),
        ("/m/CodeLlama-7b-hf", LLAMA, " <PRE>a{} <SUF>{b} <MID>"),
        ("/m/Qwen3-4B", QWEN, None),
        ("/m/Qwen2.5-Coder-7B", QWEN - {"<|fim_middle|>"}, None),
        ("/m/my-coder", set(), None),
    ],
)  # fmt: skip
def test_formats(path, tokens, prompt):
    form = fim_format(Path(path), tokens)
    assert (form and fim_prompt(form, "a{}", "{b}")) == prompt


def test_marks_in_the_code_itself_stay():
    assert fim_prompt("[SUFFIX]{suffix}[PREFIX]{prefix}", "{suffix}", "{prefix}") == "[SUFFIX]{prefix}[PREFIX]{suffix}"
    assert fim_prompt("<P>{prefix}<S>{suffix}<M>", "{suffix}", "x") == "<P>{suffix}<S>x<M>"
