"""What a folder of weights is: read from its small files and headers, before any engine sees it."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllama.engine.parsers import Parsers, choose_parsers
from vllama.errors import ConfigError
from vllama.models import _config, _quantization, _template
from vllama.models._files import read_json, read_json_list, read_tokens, require_config
from vllama.models._folders import refuse_other_folders
from vllama.models._safetensors import Tensor, WeightFile, weight_files
from vllama.models.fim import fim_format

# Named like encoders, but they answer.
_GENERATIVE_MODELS = frozenset({"MossAudioModel", "MiDashengLMModel", "Qwen2_5OmniModel", "ChatGLMModel"})
_GENERATIVE = ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")
_EMBEDDING = ("ForTextEncoding", "EmbeddingModel", "ForMaskedLM", "Model")
_NEITHER = ("ForSequenceClassification", "ForTokenClassification", "ClassificationModel", "RewardModel")
_SENTENCE_CONFIGS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
_MISTRAL_TOKENIZER = "tekken.json"
_LONGEST_LICENCE = 200_000


@dataclass(frozen=True)
class Checkpoint:
    """A model folder. Numbers that its config does not tell are None.

    chats: whether vLLM can render a conversation for it: by its chat_template, or by code of its own.
    fim_format: how it is asked to fill in the middle of a text, None where it cannot.
    """

    path: Path
    architecture: str
    model_type: str
    families: tuple[str, ...]
    format: str
    parameter_count: int
    quantization_level: str
    context_length: int
    embedding_length: int | None
    block_count: int | None
    head_count: int | None
    head_count_kv: int | None
    feed_forward_length: int | None
    vocab_size: int | None
    rope_frequency_base: float | None
    vision_block_count: int | None
    capabilities: tuple[str, ...]
    parsers: Parsers
    chat_template: str | None
    chats: bool
    fim_format: str | None
    license: str | None
    size: int
    digest: str
    modified: datetime
    config: dict[str, Any] = field(repr=False)


def inspect(path: Path) -> Checkpoint:
    """Read a checkpoint folder; raises ConfigError with what to do where it is none."""
    try:
        return _inspect(path)
    except OSError as error:
        where = error.filename or path
        raise ConfigError(f"{where} cannot be read ({error.strerror})", "check its permissions and the disk") from None


def _inspect(path: Path) -> Checkpoint:
    refuse_other_folders(path)
    config = require_config(path)
    weights = weight_files(path)
    if not weights:
        raise ConfigError(f"{path} holds no weights", "put the *.safetensors files beside config.json")
    architecture = str(config["architectures"][0])
    quantization = _quantization.quantization_config(config, read_json(path / "hf_quant_config.json"))
    tokenizer = read_json(path / "tokenizer_config.json")
    templates = _template.read_templates(path, tokenizer)
    every_template = "\n".join(templates.values())
    tokens = read_tokens(path, tokenizer)
    fim = fim_format(path, tokens or ())
    parsers = choose_parsers(config, every_template or None, tokens)
    if not templates and (path / _MISTRAL_TOKENIZER).is_file():
        parsers = Parsers(tool_call="mistral")
    text = _config.text_config(config)
    heads = _config.number(text, "num_attention_heads", "n_head", "n_heads", "num_heads")
    counted = _counted_files(path, weights)
    return Checkpoint(
        path=path,
        architecture=architecture,
        model_type=_model_type(config, architecture),
        families=_families(config, architecture),
        format="safetensors" if weights[0].tensors else "pytorch",
        parameter_count=_quantization.parameter_count(config, quantization, weights),
        quantization_level=_quantization.quantization_level(config, quantization, weights),
        context_length=_config.context_length(
            config,
            tokenizer_limit=tokenizer.get("model_max_length") if _embeds(path, architecture) else None,
            sentence_limit=_sentence_limit(path),
        ),
        embedding_length=_dense_output(path) or _config.number(text, "hidden_size", "n_embd", "d_model", "dim"),
        block_count=_config.number(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        head_count=heads,
        head_count_kv=_config.number(
            text, "num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num", "num_attention_groups"
        )
        or heads,
        feed_forward_length=_config.number(text, "intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
        vocab_size=_config.number(text, "vocab_size", "padded_vocab_size"),
        rope_frequency_base=_config.rope_frequency_base(config),
        vision_block_count=_config.number(_vision(config), "num_hidden_layers", "depth", "layers", "n_layers"),
        capabilities=_capabilities(path, config, architecture, every_template, parsers, fim),
        parsers=parsers,
        chat_template=_template.default_template(templates),
        chats=bool(templates) or (path / _MISTRAL_TOKENIZER).is_file() or parsers != Parsers(),
        fim_format=fim,
        license=_license(path),
        size=sum(file.stat().st_size for file in counted),
        digest=_digest(path, counted, weights),
        modified=datetime.fromtimestamp(max(file.stat().st_mtime for file in counted), tz=UTC),
        config=config,
    )


def read_tensors(checkpoint: Checkpoint) -> list[Tensor]:
    """What the headers of its weight files list; none for pickled files. Raises ConfigError as `inspect` does."""
    return [tensor for file in weight_files(checkpoint.path) for tensor in file.tensors]


def _model_type(config: Mapping[str, Any], architecture: str) -> str:
    named = config.get("model_type")
    if isinstance(named, str) and named:
        return named
    for ending in (*_GENERATIVE, *_EMBEDDING, *_NEITHER):
        architecture = architecture.removesuffix(ending)
    return architecture.lower()


def _families(config: Mapping[str, Any], architecture: str) -> tuple[str, ...]:
    types = [_model_type(config, architecture), _config.text_config(config).get("model_type")]
    return tuple(dict.fromkeys(name for name in types if isinstance(name, str) and name))


def _capabilities(
    path: Path, config: Mapping[str, Any], architecture: str, template: str, parsers: Parsers, fim: str | None
) -> tuple[str, ...]:
    names = _template.variables(template)
    embeds = _embeds(path, architecture)
    transcribes = config.get("model_type") == "whisper"
    completes = not embeds and not transcribes and _generates(architecture)
    # A template that vLLM renders in code takes tools; one that is written takes them only by that name.
    takes_tools = "tools" in names or not template
    has = {
        "completion": completes,
        "tools": completes and takes_tools and parsers.tool_call is not None,
        "insert": completes and fim is not None,
        "vision": bool(_vision(config)),
        "embedding": embeds,
        "audio": transcribes
        or bool(_config.part(config, "audio_config", "audio_encoder", "audio_processor", "audio_tower")),
        "thinking": completes and parsers.reasoning is not None,
    }
    return tuple(name for name, present in has.items() if present)


def _generates(architecture: str) -> bool:
    return architecture in _GENERATIVE_MODELS or not architecture.endswith((*_EMBEDDING[:3], *_NEITHER))


def _embeds(path: Path, architecture: str) -> bool:
    """As vLLM decides between its runners: sentence-transformers' pooling first, then the architecture's name."""
    if any(module.get("type", "").endswith("Pooling") for module in _modules(path)):
        return True
    if architecture in _GENERATIVE_MODELS or architecture.endswith((*_GENERATIVE, *_NEITHER)):
        return False
    return architecture.endswith(_EMBEDDING)


def _vision(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return _config.part(config, "vision_config", "visual", "vision_encoder", "vision_tower_config", "img_processor")


def _modules(path: Path) -> list[dict[str, Any]]:
    modules = read_json_list(path / "modules.json")
    return [module for module in modules if isinstance(module, dict) and isinstance(module.get("type"), str)]


def _dense_output(path: Path) -> int | None:
    """The width of the vectors where sentence-transformers projects them after pooling."""
    dense = [module for module in _modules(path) if module["type"].endswith("Dense")]
    folder = dense[-1].get("path") if dense else None
    return _config.number(read_json(path / str(folder) / "config.json"), "out_features") if folder else None


def _sentence_limit(path: Path) -> Any:
    return next((limit for name in _SENTENCE_CONFIGS if (limit := read_json(path / name).get("max_seq_length"))), None)


def _license(path: Path) -> str | None:
    for name in _LICENCES:
        if (text := _text(path / name)) is not None:
            return text
    front = re.match(r"---\s*\n(.*?)\n---", _text(path / "README.md") or "", re.DOTALL)
    named = re.search(r"^license:[ \t]*\n?[ \t-]*([^\s#]+)", front[1], re.MULTILINE) if front else None
    return named[1].strip("\"'") if named else None


def _text(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST_LICENCE) or None
    except OSError:
        return None


def _counted_files(path: Path, weights: Iterable[WeightFile]) -> list[Path]:
    """What belongs to the model: its weights, settings, tokenizer and template; no README, no other format."""
    small = [
        file
        for file in path.iterdir()
        if file.suffix in {".json", ".jinja", ".txt", ".model", ".tiktoken"} and file.is_file()
    ]
    return sorted({*small, *(weight.path for weight in weights)})


def _digest(path: Path, files: Iterable[Path], weights: Iterable[WeightFile]) -> str:
    """An identity without reading gigabytes: names, sizes, small files, weight headers and two pages of weights."""
    fingerprints = {weight.path: weight.fingerprint for weight in weights}
    digest = hashlib.sha256()
    for file in files:
        content = fingerprints.get(file)
        if content is None:
            with file.open("rb") as opened:
                content = opened.read(1_000_000)
        name = file.relative_to(path).as_posix()
        digest.update(f"{name}\0{file.stat().st_size}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
