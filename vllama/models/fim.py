"""Filling in the middle: how a code model is shown what comes before a gap, and what after it.

Sources: the model cards of Qwen2.5-Coder, StarCoder2, DeepSeek-Coder, Codestral and Code Llama.
"""

import re
from collections.abc import Container
from pathlib import Path

_FORMATS = (
    "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
    "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
    "<\uff5cfim\u2581begin\uff5c>{prefix}<\uff5cfim\u2581hole\uff5c>{suffix}<\uff5cfim\u2581end\uff5c>",
    "[SUFFIX]{suffix}[PREFIX]{prefix}",
    "\u2581<PRE>{prefix}\u2581<SUF>{suffix}\u2581<MID>",
)
_MARK = re.compile(r"<\|?[\uff5ca-z_\u2581]+\|?>|\[[A-Z]+\]|\u2581<[A-Z]+>")
_CODE_MODEL = re.compile(r"cod(e|ing|estral)|star|devstral", re.IGNORECASE)


def fim_format(path: Path, tokens: Container[str]) -> str | None:
    """A text with `{prefix}` and `{suffix}` in it, None for a model that was not trained to fill in.

    tokens: the tokenizer's added tokens. They alone prove nothing: general models of a family have those of its code
    models, so the name of the folder or the repository has to say that it is one.
    """
    cached = path.parent.name == "snapshots"  # in the Hugging Face cache the repository's name lies two folders up
    named = _CODE_MODEL.search(path.parent.parent.name if cached else path.name)
    return next((each for each in _FORMATS if named and all(mark in tokens for mark in _MARK.findall(each))), None)


def fim_prompt(form: str, prefix: str, suffix: str) -> str:
    """The prompt after which the model writes what belongs between prefix and suffix."""
    # Not str.format: code is full of braces.
    before, _, after = form.replace("\u2581<", " <").partition("{prefix}")
    if "{suffix}" in before:
        return before.replace("{suffix}", suffix) + prefix + after
    return before + prefix + after.replace("{suffix}", suffix)
