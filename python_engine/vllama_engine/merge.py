"""Adding an adapter to its base model's weights with PEFT, on the CPU."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

_EMBEDDINGS = {"embed_tokens", "wte", "lm_head"}
_SHARD = "5GB"


class _Refused(Exception):  # noqa: N818 - its text is what the user is told
    """A merge that cannot be done. advice: what to do instead."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


def run_merge(adapter: Path, base: Path, output: Path) -> int:
    """Write the merged model's config and weights into `output`.

    Prints a line of JSON for each step, `{"step", "fraction"}`, and `{"error", "advice"}` where it cannot be done; all
    else goes to the standard error output.
    """
    # Libraries print on stdout too.
    lines, sys.stdout = sys.stdout, sys.stderr

    def tell(**line: Any) -> None:
        print(json.dumps(line), file=lines, flush=True)

    try:
        _merge(adapter, base, output, lambda step, fraction: tell(step=step, fraction=fraction))
    except _Refused as refused:
        tell(error=str(refused), advice=refused.advice)
        return 1
    return 0


def _merge(adapter: Path, base: Path, output: Path, report: Any) -> None:
    report("starting", 0.0)
    try:
        from peft import PeftModel, load_peft_weights
    except ImportError as error:
        raise _Refused(
            f"the engine's environment lacks PEFT ({error})",
            f"run `uv pip install --python {sys.executable} peft`",
        ) from error
    report("reading the base", 0.05)
    model = _load_base(base)
    _fit_embeddings(model, load_peft_weights(str(adapter), device="cpu"))
    report("reading the adapter", 0.4)
    with warnings.catch_warnings():
        # PEFT would go on with what fits, and merge noise for the rest.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            merged = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
        except (UserWarning, ValueError, RuntimeError, KeyError) as error:
            raise _Refused(
                f"the adapter does not fit the base ({_first_line(error)})", "name the model that it was trained on"
            ) from error
    report("merging", 0.5)
    try:
        merged = merged.merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise _Refused(f"PEFT cannot merge this adapter ({_first_line(error)})", "train a LoRA adapter") from error
    _untie(merged)
    report("writing the model", 0.7)
    merged.save_pretrained(str(output), max_shard_size=_SHARD)


def _first_line(error: BaseException) -> str:
    """Of what it says: PyTorch's begin with a headline."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith(":")), str(error).strip())[:300]


def _load_base(base: Path) -> Any:
    """The model of the class that its config names: saved again, its weights keep their names and type."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(str(base))
    named = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)
    try:
        return (named or transformers.AutoModelForCausalLM).from_pretrained(str(base), dtype="auto")
    except ValueError as error:
        raise _Refused(
            f"transformers cannot load the base ({_first_line(error)})", "merge it where it was trained"
        ) from error


def _fit_embeddings(model: Any, weights: dict[str, Any]) -> None:
    """Give the base as many tokens as an adapter has that was trained with more."""
    whole = (
        tensor.shape[0]
        for name, tensor in weights.items()
        if name.endswith(".weight") and _EMBEDDINGS & {*name.split(".")} and ".lora_" not in name
    )
    rows = next(whole, None)
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows)


def _untie(model: Any) -> None:
    """A head that was trained apart from the embedding it was one with must be saved, and loaded, apart from it."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    texts = {id(config): config for config in (model.config, model.config.get_text_config())}.values()
    if head is None or not any(getattr(config, "tie_word_embeddings", False) for config in texts):
        return
    if head.weight is embedding.weight or bool((head.weight == embedding.weight).all()):
        return
    for config in texts:
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
