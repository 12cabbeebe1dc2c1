import json
import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.models.conftest import QWEN3, safetensors
from vllama.errors import ConfigError
from vllama.models.inspect import capabilities_with, inspect, read_tensors

Build = Callable[..., Path]
DEMO = Path(__file__).parents[2] / "vllama" / "demo"
CHAT = '{% if tools %}<tool_call>{"name": {% endif %}{% if enable_thinking %}<think></think>{% endif %}'


def test_a_chat_model(build: Build) -> None:
    checkpoint = inspect(build(files={"chat_template.jinja": CHAT}))
    assert checkpoint.architecture == "Qwen3ForCausalLM"
    assert checkpoint.model_type == "qwen3"
    assert checkpoint.families == ("qwen3",)
    assert checkpoint.parameter_count == 40
    assert checkpoint.quantization_level == "BF16"
    assert checkpoint.context_length == 4096
    assert checkpoint.embedding_length == 64
    assert checkpoint.block_count == 2
    assert (checkpoint.head_count, checkpoint.head_count_kv) == (4, 2)
    assert checkpoint.feed_forward_length == 128
    assert checkpoint.vocab_size == 100
    assert checkpoint.rope_frequency_base == 1000000
    assert checkpoint.capabilities == ("completion", "tools", "thinking")
    assert (checkpoint.parsers.tool_call, checkpoint.parsers.reasoning) == ("hermes", "qwen3")
    assert checkpoint.chat_template == CHAT
    assert checkpoint.config["model_type"] == "qwen3"


@pytest.mark.parametrize("name", ["chat", "embed"])
def test_the_demo_models(name: str) -> None:
    checkpoint = inspect(DEMO / name)
    expected = ("completion", "tools", "thinking") if name == "chat" else ("embedding",)
    assert checkpoint.capabilities == expected
    assert checkpoint.license is not None


def test_a_multimodal_model(build: Build) -> None:
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": QWEN3 | {"model_type": "qwen3_vl_text"},
        "vision_config": {"depth": 27},
    }
    checkpoint = inspect(build(config))
    assert checkpoint.capabilities == ("completion", "vision")
    assert checkpoint.families == ("qwen3_vl", "qwen3_vl_text")
    assert checkpoint.embedding_length == 64
    assert checkpoint.vision_block_count == 27


@pytest.mark.parametrize(
    ("config", "capabilities"),
    [
        ({"architectures": ["XForCausalLM"]}, ("completion",)),
        ({"architectures": ["XForCausalLM"], "vision_config": None}, ("completion",)),
        ({"architectures": ["GPT2LMHeadModel"]}, ("completion",)),
        ({"architectures": ["SomethingNew"]}, ("completion",)),
        ({"architectures": ["MiDashengLMModel"], "audio_encoder": {"x": 1}}, ("completion", "audio")),
        ({"architectures": ["XForConditionalGeneration"], "audio_config": {"x": 1}}, ("completion", "audio")),
        ({"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}, ("audio",)),
        ({"architectures": ["BertModel"]}, ("embedding",)),
        ({"architectures": ["XLMRobertaForMaskedLM"]}, ("embedding",)),
        ({"architectures": ["SiglipModel"], "vision_config": {"x": 1}}, ("vision", "embedding")),
        ({"architectures": ["BertForSequenceClassification"]}, ()),
        ({"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}, ("completion", "tools", "thinking")),
    ],
)
def test_capabilities_by_config(build: Build, config: dict[str, Any], capabilities: tuple[str, ...]) -> None:
    assert inspect(build(config)).capabilities == capabilities


TOOL = '<tool_call>{"name": '


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        ("{{ messages }}", ("completion",)),
        (f"{{% if tools %}}{TOOL}{{% endif %}}", ("completion", "tools")),
        # Prose, comments, strings and attributes are no use of the variable.
        (f"You may use tools. {TOOL}", ("completion",)),
        (f"{{# tools #}}{TOOL}", ("completion",)),
        (f"{{{{ 'the tools' }}}}{TOOL}", ("completion",)),
        (f"{{{{ message.tools }}}}{TOOL}", ("completion",)),
        (f"{{% if 'tools' in message %}}{TOOL}{{% endif %}}", ("completion",)),
        # Nothing understands what it writes: then the engine cannot answer with calls.
        ("{% if tools %}CALL:{% endif %}", ("completion",)),
        ("{{ prefix }}{{ suffix }}", ("completion",)),
        ("{% if enable_thinking %}<think>{% endif %}", ("completion", "thinking")),
        ("{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}", ("completion", "thinking")),
        ("{{ unclosed", ("completion",)),
        ("{# unclosed", ("completion",)),
        ("{{ 'unclosed }}", ("completion",)),
    ],
)
def test_capabilities_by_template(build: Build, template: str, capabilities: tuple[str, ...]) -> None:
    checkpoint = inspect(build(files={"chat_template.jinja": template}))
    assert checkpoint.capabilities == capabilities
    assert checkpoint.chat_template == template


def test_a_code_model_fills_in_the_middle(build: Build) -> None:
    marks = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    tokens = {
        "tokenizer_config.json": {"added_tokens_decoder": {str(at): {"content": mark} for at, mark in enumerate(marks)}}
    }
    coder = inspect(build(files=tokens, name="tiny-coder"))
    assert ("insert" in coder.capabilities, coder.fim_format) == (
        True,
        "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>",
    )
    assert inspect(build(files=tokens, name="tiny")).fim_format is None


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"tokenizer_config.json": {"chat_template": "A"}}, "A"),
        ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.json": {"chat_template": "B"}}, "B"),
        ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": "C"}, "C"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
                }
            },
            "D",
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "x"}, 3]}}, None),
        ({"tokenizer_config.json": "no JSON"}, None),
        ({"chat_template.jinja": b"\xff\xfe"}, None),
        ({}, None),
    ],
)
def test_where_the_template_is(build: Build, files: dict[str, Any], template: str | None) -> None:
    assert inspect(build(files=files)).chat_template == template


@pytest.mark.parametrize(
    ("config", "files", "chats"),
    [
        (QWEN3, {}, False),
        (QWEN3, {"chat_template.jinja": "x"}, True),
        # vLLM renders these itself.
        (QWEN3 | {"model_type": "deepseek_v32"}, {}, True),
        (QWEN3, {"tekken.json": "{}"}, True),
    ],
)
def test_chats(build: Build, config: dict[str, Any], files: dict[str, Any], chats: bool) -> None:
    assert inspect(build(config, files)).chats is chats


def test_mistrals_own_tokenizer_brings_tools(build: Build) -> None:
    assert inspect(build(files={"tekken.json": "{}"})).capabilities == ("completion", "tools")


def test_a_template_for_tools_alone_gives_tools(build: Build) -> None:
    templates = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "{{ tools }}" + TOOL}]
    checkpoint = inspect(build(files={"tokenizer_config.json": {"chat_template": templates}}))
    assert checkpoint.capabilities == ("completion", "tools")


def test_a_parser_whose_tokens_are_missing_is_not_chosen(build: Build) -> None:
    files = {
        "chat_template.jinja": "{{ tools }}<|python_tag|>",
        "tokenizer.json": {"added_tokens": [{"content": "<s>"}]},
    }
    assert inspect(build(files=files)).capabilities == ("completion",)
    files["tokenizer_config.json"] = {"added_tokens_decoder": {"1": {"content": "<|python_tag|>"}}}
    assert inspect(build(files=files)).capabilities == ("completion", "tools")


def test_sentence_transformers(build: Build) -> None:
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    files = {
        "modules.json": modules,
        "2_Dense/config.json": {"in_features": 64, "out_features": 32},
        "sentence_bert_config.json": {"max_seq_length": 256},
    }
    checkpoint = inspect(build(files=files))
    assert checkpoint.capabilities == ("embedding",)
    assert checkpoint.embedding_length == 32
    assert checkpoint.context_length == 256


def test_an_encoder_is_bound_by_its_tokenizer(build: Build) -> None:
    config = {"architectures": ["BertModel"], "max_position_embeddings": 514, "position_embedding_type": "absolute"}
    assert inspect(build(config, {"tokenizer_config.json": {"model_max_length": 512}})).context_length == 512
    assert inspect(build(config, {"tokenizer_config.json": {"model_max_length": 1e30}})).context_length == 514


def test_shards_are_summed_and_the_second_copy_is_not(build: Build) -> None:
    files = {
        "model.safetensors": None,
        "model-1.safetensors": safetensors({"a": ("BF16", [10])}),
        "model-2.safetensors": safetensors({"b": ("BF16", [20])}),
        "consolidated.safetensors": safetensors({"a": ("BF16", [30])}),
    }
    plain = inspect(build(files=files, name="plain"))
    assert plain.parameter_count == 30
    files["model.safetensors.index.json"] = {"weight_map": {"a": "model-1.safetensors"}}
    assert inspect(build(files=files, name="indexed")).parameter_count == 10


def test_pickled_weights(build: Build) -> None:
    folder = build(QWEN3 | {"torch_dtype": "float16"}, {"model.safetensors": None, "pytorch_model.bin": bytes(200)})
    checkpoint = inspect(folder)
    assert checkpoint.format == "pytorch"
    assert checkpoint.quantization_level == "F16"
    assert checkpoint.parameter_count == 100


def test_size_counts_only_the_model(build: Build) -> None:
    folder = build(files={"tokenizer.json": "{}"})
    before = inspect(folder)
    (folder / "README.md").write_text("long")
    (folder / "model.gguf").write_bytes(bytes(100))
    (folder / "training_args.bin").write_bytes(bytes(100))
    after = inspect(folder)
    assert (
        after.size
        == before.size
        == sum((folder / name).stat().st_size for name in ("config.json", "tokenizer.json", "model.safetensors"))
    )
    assert after.digest == before.digest


def test_digest_is_stable_and_tells_models_apart(build: Build) -> None:
    first = inspect(build(name="first"))
    assert len(first.digest) == 64
    assert int(first.digest, 16) >= 0
    assert inspect(build(name="second")).digest == first.digest
    assert inspect(build(QWEN3 | {"vocab_size": 7}, name="third")).digest != first.digest
    folder = build(name="tuned")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert inspect(folder).digest != first.digest


def test_modified_is_the_newest_file(build: Build) -> None:
    folder = build()
    for path in folder.iterdir():
        os.utime(path, (1000, 1000))
    os.utime(folder / "model.safetensors", (2000, 2000))
    assert inspect(folder).modified == datetime.fromtimestamp(2000, tz=UTC)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"LICENSE": "MIT License\n"}, "MIT License\n"),
        ({"README.md": "---\nlicense: apache-2.0\ntags: []\n---\n# X"}, "apache-2.0"),
        ({"README.md": "---\nlicense:\n- mit\n---\n"}, "mit"),
        ({"README.md": '---\nlicense: "mit"\n---\n'}, "mit"),
        ({"README.md": "license: mit"}, None),
        ({"README.md": "---\ntags: []\n---\nlicense: mit"}, None),
        ({}, None),
    ],
)
def test_license(build: Build, files: dict[str, Any], expected: str | None) -> None:
    assert inspect(build(files=files)).license == expected


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        inspect(path)
    assert raised.value.advice
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_no_such_path(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "told"),
    [("m.gguf", "is a GGUF file"), ("m.safetensors", "name its folder instead"), ("m.txt", "is a file")],
)
def test_a_file(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert told in refused(tmp_path / name)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "is empty" in refused(tmp_path)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"x.txt": "x"}, "has neither config.json nor adapter_config.json"),
        ({"x.gguf": "x"}, "holds only GGUF files"),
        ({"model_index.json": "{}"}, "diffusers pipeline"),
        ({"params.json": "{}", "consolidated.safetensors": "x"}, "Mistral's own format"),
        ({"adapter_config.json": {"base_model_name_or_path": "org/base"}}, "is a LoRA adapter of org/base"),
        ({"adapter_config.json": "garbage"}, "is a LoRA adapter of its base model"),
        ({"adapter_model.safetensors": "x"}, "without adapter_config.json"),
    ],
)
def test_other_folders(build: Build, files: dict[str, Any], told: str) -> None:
    assert told in refused(build(files={"config.json": None, "model.safetensors": None} | files))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", "is not valid JSON"),
        (b"\xff\x00", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "names no architecture"),
        ("{}", "names no architecture"),
        ({"architectures": []}, "names no architecture"),
        ({"architectures": None}, "names no architecture"),
        ({"architectures": [1]}, "names no architecture"),
        (QWEN3 | {"quantization": {"bits": 4, "group_size": 64}}, "quantised for MLX"),
    ],
)
def test_bad_configs(build: Build, config: Any, told: str) -> None:
    assert told in refused(build(files={"config.json": config}))


def test_infinity_in_a_config_is_read(build: Build) -> None:
    text = json.dumps(QWEN3 | {"time_step_limit": [0.0, float("inf")]})
    assert inspect(build(files={"config.json": text})).context_length == 4096


def test_reading_tensors(build: Build) -> None:
    shards = {f"model-{number}.safetensors": safetensors({f"t{number}": ("F16", [2, number])}) for number in (1, 2)}
    index = {"weight_map": {f"t{number}": f"model-{number}.safetensors" for number in (1, 2)}}
    files = {"model.safetensors": None, "model.safetensors.index.json": index, **shards}
    tensors = read_tensors(inspect(build(files=files)))
    assert [(one.name, one.dtype, one.shape) for one in tensors] == [("t1", "F16", (2, 1)), ("t2", "F16", (2, 2))]


def test_pickled_weights_list_no_tensors(build: Build) -> None:
    checkpoint = inspect(build(files={"model.safetensors": None, "pytorch_model.bin": bytes(100)}))
    assert read_tensors(checkpoint) == []


def test_no_weights(build: Build) -> None:
    assert "holds no weights" in refused(build(files={"model.safetensors": None, "training_args.bin": b"x"}))


GOOD = safetensors({"a": ("BF16", [100])})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not a whole safetensors file"),
        (b"1234567", "is not a whole safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "is not a whole safetensors file"),
        (GOOD[:20], "is not a whole safetensors file"),
        (GOOD[:-1], "bytes where its header promises"),
        (GOOD + b"x", "bytes where its header promises"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "Git LFS pointer"),
        (struct.pack("<Q", 2) + b"[]", "no valid safetensors header"),
        (struct.pack("<Q", 2) + b"\xff\xff", "no valid safetensors header"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "no valid safetensors header"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "no valid safetensors header"),
        (struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}'.ljust(60), "no valid"),
        (struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":"x"}}'.ljust(60), "no valid"),
    ],
)
def test_damaged_weights(build: Build, content: bytes, told: str) -> None:
    assert told in refused(build(files={"model.safetensors": content}))


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({"weight_map": {"a": "model.safetensors", "b": "lost.safetensors"}}, "lacks lost.safetensors, named by"),
        ({"weight_map": {"a": "x1", "b": "x2", "c": "x3"}}, "lacks x1 and 2 more"),
        ({"weight_map": {"a": 3}}, "lacks 3"),
        ({"weight_map": []}, "cannot be read as an index"),
        ({}, "cannot be read as an index"),
        ("{", "cannot be read as an index"),
    ],
)
def test_bad_indexes(build: Build, index: Any, told: str) -> None:
    assert told in refused(build(files={"model.safetensors.index.json": index}))


def test_any_garbage_is_a_config_error(build: Build) -> None:
    """Every small file replaced by every kind of garbage: read, or refused, but never a traceback."""
    names = ["config.json", "tokenizer_config.json", "tokenizer.json", "modules.json"]
    names += ["chat_template.json", "sentence_bert_config.json", "hf_quant_config.json", "model.safetensors.index.json"]
    for name in names:
        for content in (b"\x00\xff", b"null", b"[1]", b'"x"', b'{"a": [null]}', b"[" * 50_000, b""):
            try:
                inspect(build(files={name: content}))
            except ConfigError:
                continue


def test_wrong_types_in_the_config_do_not_matter(build: Build) -> None:
    for value in (None, "x", [], {}, True, -1, [None, "x"], {"a": None}):
        config = dict.fromkeys(QWEN3, value) | {
            "architectures": ["XForCausalLM"],
            "text_config": {"hidden_size": value, "rope_scaling": value, "model_type": value},
            "rope_parameters": value,
            "vision_config": value,
            "quantization_config": {"quant_method": value, "config_groups": value, "format": value, "bits": value},
        }
        assert inspect(build(config)).capabilities[0] == "completion"


TEMPLATES = [
    ("{{ messages[0].content }}", ("completion",)),
    ("{% if tools %}{{ tools }}{% endif %}", ("completion", "tools")),
    ("{% if enable_thinking %}<think></think>{% endif %}", ("completion", "thinking")),
    (CHAT, ("completion", "tools", "thinking")),
    ("{% if tools %}[TOOL_CALLS]{% endif %}", ("completion",)),
    ("{% if thinking %}[THINK]{% endif %}", ("completion",)),
    ("{# tools #}tools", ("completion",)),
]


@pytest.mark.parametrize(("template", "capabilities"), TEMPLATES)
def test_what_a_model_can_do_under_another_template(build: Build, template: str, capabilities: tuple[str, ...]) -> None:
    assert capabilities_with(inspect(build(files={"chat_template.jinja": CHAT})), template) == capabilities


def test_no_template_gives_a_model_what_its_engine_cannot_read(build: Build) -> None:
    assert capabilities_with(inspect(build()), CHAT) == ("completion",)
    bert = {"architectures": ["BertModel"]}
    assert capabilities_with(inspect(build(bert, name="bert")), CHAT) == ("embedding",)
