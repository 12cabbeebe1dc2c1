"""Whether an adapter fits a base model, by the shapes in the headers of both."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set

from vllama.errors import ConfigError
from vllama.models._safetensors import Tensor
from vllama.models.adapters import Adapter, UnservableAdapterError, merge_advice, read_adapter_tensors
from vllama.models.inspect import Checkpoint, read_tensors

_LAYER = re.compile(r"(?:.+\.)?(?:layers|layer|h|blocks|block)\.(\d+)\.(.+)")
_LORA = re.compile(r"(.+)\.lora_([AB])\.weight")
_WHOLE_EMBEDDING = re.compile(r"(?:.+\.)?(embed_tokens|lm_head|wte)(?:\.(?:base_layer|modules_to_save))?\.weight")
# What is packed (int4 in I32, mxfp4 in U8) has other shapes than the matrix it stands for.
_UNPACKED = ("F", "BF")

Shape = tuple[int, ...]


def check_fit(adapter: Adapter, name: str, base: Checkpoint, argument: str = "", *, merging: bool = False) -> None:
    """Refuse an adapter that was trained on another model than this base. Raises ConfigError.

    Only what is sure is refused: weights that are packed, renamed or without a header are taken to fit. merging: tokens
    may have been added to the base's; else that is an UnservableAdapterError. argument: what `vllama merge` knows the
    adapter by, where that is not its name.
    """
    tensors, weights = read_adapter_tensors(adapter), read_tensors(base)
    if reason := next(_misfits(tensors, weights), ""):
        raise ConfigError(
            f"the adapter {name} was not trained on {base.path}: {reason}",
            f"name its base: --lora {name}={adapter.path}@BASE",
        )
    reason = _other_vocabulary(tensors, weights, base.vocab_size)
    if reason and embedding_rows(tensors) is None:
        raise ConfigError(
            f"the adapter {name} lacks the embedding of its tokens: {reason}",
            "save it again where it was trained, with save_embedding_layers=True",
        )
    if reason and not merging:
        raise UnservableAdapterError(
            f"the adapter {name} cannot be served on {base.path}: {reason}", merge_advice(argument or name)
        )


def embedding_rows(tensors: Iterable[Tensor]) -> int | None:
    """The number of tokens of the embedding among these tensors; None where there is none."""
    rows = (tensor.shape[0] for tensor in tensors if len(tensor.shape) == 2 and _WHOLE_EMBEDDING.fullmatch(tensor.name))
    return next(rows, None)


def _misfits(tensors: Iterable[Tensor], weights: Iterable[Tensor]) -> Iterator[str]:
    shapes, layers = _shapes(weights)
    for module, changed in _changes(tensors).items():
        layer = _LAYER.fullmatch(module)
        if layers and layer and int(layer[1]) >= layers:
            yield f"it changes layer {int(layer[1]) + 1}, and there are {layers}"
        known = shapes.get(_key(module), ())
        if known and changed not in known:
            yield f"its {module.rsplit('.', 1)[-1]} is {_by(changed)}, and there it is {_by(min(known))}"


def _other_vocabulary(tensors: Iterable[Tensor], weights: Iterable[Tensor], vocab_size: int | None) -> str:
    brought = next((t.shape[-1] for t in tensors if t.name.endswith("lora_embedding_A")), embedding_rows(tensors))
    has = embedding_rows(weights) or vocab_size
    if brought is None or has is None or brought in {has, vocab_size}:
        return ""
    return f"it was trained with {brought} tokens, and there are {has}"


def _changes(tensors: Iterable[Tensor]) -> Mapping[str, Shape]:
    """The shape of the matrix that each module's A and B change, its smaller side first: some layers are turned."""
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    for tensor in tensors:
        if (part := _LORA.fullmatch(tensor.name)) and len(tensor.shape) == 2:
            (inputs if part[2] == "A" else outputs)[part[1]] = tensor.shape[1 if part[2] == "A" else 0]
    return {
        module: tuple(sorted((inputs[module], outputs[module]))) for module in sorted(inputs.keys() & outputs.keys())
    }


def _shapes(weights: Iterable[Tensor]) -> tuple[Mapping[str, Set[Shape]], int]:
    """The shapes of matrices by their place in the model, and the number of layers."""
    shapes: defaultdict[str, set[Shape]] = defaultdict(set)
    layers = 0
    for tensor in weights:
        module = tensor.name.rpartition(".")[0]
        if layer := _LAYER.fullmatch(module):
            layers = max(layers, int(layer[1]) + 1)
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2 and tensor.dtype.startswith(_UNPACKED):
            shapes[_key(module)].add(tuple(sorted(tensor.shape)))
    return shapes, layers


def _key(module: str) -> str:
    """The layer's number and the path in it: what comes before differs between saved models and loaded ones."""
    layer = _LAYER.fullmatch(module)
    return f"{layer[1]}.{layer[2]}" if layer else module.rsplit(".", 1)[-1]


def _by(shape: Shape) -> str:
    return " by ".join(map(str, shape))
