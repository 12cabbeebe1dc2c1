"""What a folder is, told by the names of what lies in it: a model, an adapter, or something that nobody can serve."""

import contextlib
import os
import re
from collections.abc import Callable, Set
from enum import Enum
from pathlib import Path

from vllama.errors import ConfigError
from vllama.models._files import read_json
from vllama.models._safetensors import INDEX

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
"""Where vLLM looks for an adapter's weights, in this order."""

_NEXT_TO_CONFIG = "name the folder that holds config.json and *.safetensors"
_NO_MODELS_WEIGHTS = re.compile(r"(adapter_model[\w.-]*|adapters|pytorch_lora_weights|optimizer)\.safetensors")
_WEIGHTS = re.compile(r".+\.safetensors|(pytorch_model|model)[\w.-]*\.bin")
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.(safetensors|bin)")
_RANK_SHARD = re.compile(r"model-rank-\d+-part-\d+\.safetensors")
_STEP = re.compile(r"(checkpoint|step|epoch|iter|global_step)[-_]?(\d+)")


Stamp = tuple[tuple[str, int, int], ...]


class Kind(Enum):
    MODEL = "model"
    ADAPTER = "adapter"


def classify(path: Path) -> Kind:
    """Tell models and adapters apart, whatever else lies beside them; raises ConfigError for all other folders.

    Only names are looked at: whether the files are whole is for whoever reads them.
    """
    try:
        names = _names(path)
        whole = "config.json" in names and _has_weights(names)
        if ADAPTER_CONFIG in names and not whole:
            return Kind.ADAPTER
        if not whole:
            raise ConfigError(*_something_else(path, names))
        # Without an index vLLM takes every safetensors file for a part of the model.
        if INDEX not in names and ADAPTER_WEIGHTS[0] in names:
            raise ConfigError(
                f"{path} holds a whole model and a LoRA adapter ({ADAPTER_WEIGHTS[0]}) side by side",
                f"if the adapter is merged into the model, remove {ADAPTER_WEIGHTS[0]}; else move the adapter_* files "
                "to a folder of their own",
            )
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", error.strerror or str(error)) from error
    _refuse_gaps(path, names)
    return Kind.MODEL


def is_adapter(path: Path) -> bool:
    """Whether it is to be served on a base model. False for what is no folder, or none that can be served."""
    try:
        return classify(path) is Kind.ADAPTER
    except ConfigError:
        return False


def refuse_other_folders(path: Path) -> None:
    """Tell what the path is, where it is no model's folder."""
    if classify(path) is Kind.ADAPTER:
        base = read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path") or "its base model"
        raise ConfigError(f"{path} is a LoRA adapter of {base}, not a model", f"serve it as --lora NAME={path}@BASE")


def list_folder(path: Path) -> Set[str]:
    """The names in a folder; raises ConfigError where it is none or empty."""
    try:
        return _names(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", error.strerror or str(error)) from error


def stamp_of(path: Path) -> Stamp:
    """Changes when a file comes, goes, grows or is written anew."""
    found = []
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # a link that leads nowhere
                status = entry.stat()
                found.append((entry.name, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))


def _names(path: Path) -> Set[str]:
    if not path.exists():
        raise ConfigError(f"{path} does not exist", "check the path of the model folder")
    if not path.is_dir():
        raise ConfigError(*_no_folder(path))
    names = _list(path)
    if not names:
        raise ConfigError(f"{path} is empty", "put the model's config.json and *.safetensors files there")
    return names


def _list(path: Path) -> Set[str]:
    return {entry.name for entry in path.iterdir()}


def _has_weights(names: Set[str]) -> bool:
    if INDEX in names:
        return True
    weights = (name for name in names if _WEIGHTS.fullmatch(name) and not _NO_MODELS_WEIGHTS.fullmatch(name))
    return any(not _RANK_SHARD.fullmatch(name) for name in weights)


def _refuse_gaps(path: Path, names: Set[str]) -> None:
    """Numbered shards tell how many there are, even where no index lists them."""
    shards = [found for name in names if (found := _SHARD.fullmatch(name)) and not _NO_MODELS_WEIGHTS.fullmatch(name)]
    in_use = "safetensors" if any(name.endswith(".safetensors") for name in names) else "bin"
    for start, count in sorted({(shard[1], shard[3]) for shard in shards if shard[4] == in_use}):
        present = {shard[0] for shard in shards if (shard[1], shard[3], shard[4]) == (start, count, in_use)}
        if INDEX not in names and len(present) < int(count):
            expected = {f"{start}-{at:0{len(count)}}-of-{count}.{in_use}" for at in range(1, int(count) + 1)}
            missing = sorted(expected - present)
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ConfigError(f"{path} lacks {missing[0]}{others}", "the download is incomplete: run it again")


def _no_folder(path: Path) -> tuple[str, str]:
    if path.suffix == ".gguf":
        return f"{path} is a GGUF file", "vLLM needs the safetensors model it was made from"
    if path.suffix in {".safetensors", ".bin"}:
        return f"{path} is a single file of weights", f"name its folder instead: {path.parent}"
    return f"{path} is a file", _NEXT_TO_CONFIG


def _something_else(path: Path, names: Set[str]) -> tuple[str, str]:
    """The first thing that it looks like: what it is, and what to do."""
    return next(found for look in _LOOKS if (found := look(path, names)))


def _adapter_without_config(path: Path, names: Set[str]) -> tuple[str, str] | None:
    if "pytorch_lora_weights.safetensors" in names:
        return f"{path} is a LoRA adapter of an image generator", "vLLM serves language and embedding models only"
    found = next((name for name in (*ADAPTER_WEIGHTS, "adapters.safetensors") if name in names), None)
    if found is None:
        return None
    return (
        f"{path} has an adapter's weights ({found}) without {ADAPTER_CONFIG}",
        "it is half-written or half-copied: wait for the training to save it, or copy it again",
    )


def _training_state(path: Path, names: Set[str]) -> tuple[str, str] | None:
    files = {file for name in names if (path / name).is_dir() for file in _list(path / name)} | names
    if any(name.endswith(".distcp") for name in files):
        return (
            f"{path} holds the sharded state of a training with FSDP, not a model",
            "join it with `accelerate merge-weights`, or save the model with save_pretrained",
        )
    if any(name.endswith(("_model_states.pt", "_optim_states.pt")) for name in files) or "zero_to_fp32.py" in names:
        return (
            f"{path} holds the sharded state of a training with DeepSpeed, not a model",
            "join it with `python zero_to_fp32.py . OUTPUT --safe_serialization` and put config.json and the "
            "tokenizer beside it",
        )
    if "latest_checkpointed_iteration.txt" in names or any(name.startswith("mp_rank_") for name in names):
        return (
            f"{path} holds the state of a training with Megatron, not a model",
            "convert it to a transformers model with Megatron's tools",
        )
    return None


def _folder_of_folders(path: Path, names: Set[str]) -> tuple[str, str] | None:
    if names & {"config.json", "model_index.json"}:
        return None  # sentence-transformers and diffusers keep parts of one model in folders
    if "snapshots" in names and ({"blobs", "refs"} & names):
        repository = path.name.removeprefix("models--").replace("--", "/", 1)
        return f"{path} is the Hugging Face cache's folder of a repository", f"name the repository: {repository}"
    inside = [name for name in names if _holds_a_model(path / name)]
    if not inside:
        return None
    inside.sort(key=by_number)
    if all(_STEP.fullmatch(name) for name in inside):
        return f"{path} is a training's output with {_count(inside)}", f"name one of them: {path / inside[-1]}"
    if len(inside) == 1:
        return f"{path} is a folder around a model", f"name the folder inside: {path / inside[0]}"
    return f"{path} holds {len(inside)} models", f"name one of them: {path / inside[0]}"


def _count(checkpoints: list[str]) -> str:
    return "one checkpoint" if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints"


def _holds_a_model(path: Path) -> bool:
    return (path / ADAPTER_CONFIG).is_file() or (path / "config.json").is_file()


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts if part]


def _other_format(path: Path, names: Set[str]) -> tuple[str, str] | None:
    endings = {Path(name).suffix for name in names}
    if "model_index.json" in names:
        return f"{path} is a diffusers pipeline", "vLLM serves language and embedding models only"
    if ".gguf" in endings:
        return f"{path} holds only GGUF files", "vLLM needs the safetensors model they were made from"
    if any(name.startswith("consolidated") for name in names):
        return (
            (f"{path} is in Mistral's own format, without config.json", "download the repository's config.json as well")
            if ".safetensors" in endings
            else (f"{path} is in Meta's own format (*.pth)", "download the model in its transformers format")
        )
    if any(_RANK_SHARD.fullmatch(name) for name in names):
        return (
            f"{path} holds weights that vLLM has cut up for several GPUs (sharded_state)",
            "serve the model that they were made from",
        )
    for ending, what in ((".h5", "TensorFlow"), (".msgpack", "Flax"), (".onnx", "ONNX")):
        if ending in endings:
            return f"{path} holds weights for {what} only", "vLLM needs *.safetensors: export the model from PyTorch"
    if endings & {".pt", ".pth", ".ckpt"}:
        return (
            f"{path} holds PyTorch files of a training (*.pt, *.pth, *.ckpt), not a model",
            "save the model with save_pretrained, which writes config.json and *.safetensors",
        )
    return None


def _incomplete(path: Path, names: Set[str]) -> tuple[str, str]:
    if "config.json" in names:
        return f"{path} holds no weights", "put the *.safetensors files beside config.json"
    if _has_weights(names):
        return f"{path} has weights but no config.json", "copy config.json and the tokenizer from where they came from"
    if "tokenizer.json" in names or "tokenizer_config.json" in names:
        return f"{path} holds only a tokenizer", _NEXT_TO_CONFIG
    return f"{path} has neither config.json nor {ADAPTER_CONFIG}", _NEXT_TO_CONFIG


_LOOKS: tuple[Callable[[Path, Set[str]], tuple[str, str] | None], ...] = (
    _adapter_without_config,
    _training_state,
    _folder_of_folders,
    _other_format,
    _incomplete,
)
