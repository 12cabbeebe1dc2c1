"""What is told of a model, down to a Modelfile that can be read again."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.each import each
from tests.models.conftest import QWEN3, Build
from vllama.models._safetensors import Tensor
from vllama.models.inspect import inspect
from vllama.models.model import Model
from vllama.models.modelfile import Modelfile
from vllama.models.modelfile_text import parameters_text
from vllama.models.names import parse
from vllama.models.show import (
    description,
    details,
    format_parameter_count,
    model_info,
)

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UNKNOWN = Model(parse("me/far"), source="me/far", engine_name="far")
FULL = Modelfile(
    system="Be brief.",
    template="{{ messages[0].content }}",
    parameters={"temperature": 0.1, "stop": ["<a>", " b"], "num_ctx": 8192},
    messages=(("user", "Hi"), ("assistant", "Hello,\nfriend")),
)


def local(folder: Path, modelfile: Modelfile | None = None) -> Model:
    return Model(parse("m"), str(folder), "m", inspect(folder), modelfile=modelfile or Modelfile())


def test_details_and_model_info(build: Build) -> None:
    model = local(build())
    shown = details(model, lengths=True)
    assert shown == {
        "parent_model": "",
        "format": "safetensors",
        "family": "qwen3",
        "families": ("qwen3",),
        "parameter_size": "40",
        "quantization_level": "BF16",
        "context_length": 4096,
        "embedding_length": 64,
    }
    assert details(model, lengths=False) == {key: value for key, value in shown.items() if not key.endswith("_length")}
    assert model_info(model) == {
        "general.architecture": "qwen3",
        "general.file_type": 32,
        "general.parameter_count": 40,
        "qwen3.context_length": 4096,
        "qwen3.embedding_length": 64,
        "qwen3.block_count": 2,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.feed_forward_length": 128,
        "qwen3.rope.freq_base": 1000000.0,
        "qwen3.vocab_size": 100,
    }


def test_model_info_always_has_both_lengths(build: Build) -> None:
    info = model_info(local(build({"architectures": ["StrangeForCausalLM"]})))
    assert info["general.architecture"] == "strange"
    assert info["strange.context_length"] == 2048
    assert info["strange.embedding_length"] == 0


def test_old_clients_see_from_a_key_that_a_model_sees(build: Build) -> None:
    vision = {"text_config": QWEN3, "vision_config": {"depth": 27}, "model_type": "qwen3_vl"}
    config = {"architectures": ["Qwen3VLForConditionalGeneration"]} | vision
    assert model_info(local(build(config)))["qwen3_vl.vision.block_count"] == 27


@each(
    ("count", "text"),
    [
        (7_615_616_512, "7.6B"),
        (8_030_261_248, "8.0B"),
        (8_000_000_000, "8B"),
        (22_565_000, "22.57M"),
        (137_000_000, "137M"),
        (45_000, "45K"),
        (754_944, "755K"),
        (999, "999"),
        (0, "0"),
    ],
)
def test_format_parameter_count(count: int, text: str) -> None:
    assert format_parameter_count(count) == text


def test_a_checkpoints_own_defaults_are_shown_below_the_modelfiles(build: Build) -> None:
    folder = build(files={"generation_config.json": {"temperature": 0.6, "top_k": 20}})
    shown = description(local(folder, Modelfile(parameters={"top_k": 7, "stop": ["x"]})), modified=WHEN)
    assert shown["parameters"] == parameters_text({"temperature": 0.6, "top_k": 7, "stop": ["x"]})


def test_what_a_model_was_made_of(build: Build) -> None:
    folder = build(files={"LICENSE": "MIT"})
    model = replace(local(folder, Modelfile(license=("Mine.", "Yours."), requires="0.14.0")), parent="demo:latest")
    shown = description(model, modified=WHEN)
    assert shown["details"]["parent_model"] == "demo:latest"
    assert shown["license"] == "Mine.\nYours.\nMIT"
    assert shown["requires"] == "0.14.0"
    same = local(folder, Modelfile(license=("MIT",)))
    assert description(same, modified=WHEN)["license"] == "MIT"
    assert description(replace(UNKNOWN, modelfile=Modelfile(license=("Mine.",))), modified=WHEN)["license"] == "Mine."


def test_a_description_has_what_there_is_in_ollamas_order(build: Build) -> None:
    model = local(build(files={"LICENSE": "MIT"}), FULL)
    shown = description(model, modified=WHEN, tensors=[Tensor("a.weight", "BF16", (8, 4))])
    assert list(shown) == [
        "license", "modelfile", "parameters", "template", "system", "details", "messages", "model_info", "tensors",
        "capabilities", "modified_at",
    ]  # fmt: skip
    assert shown["license"] == "MIT"
    assert shown["template"] == "{{ messages[0].content }}"
    assert shown["system"] == "Be brief."
    assert shown["messages"] == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello,\nfriend"}]
    assert shown["tensors"] == [{"name": "a.weight", "type": "BF16", "shape": (8, 4)}]
    assert shown["modified_at"] == "2026-01-02T03:04:05+00:00"
    assert not any(key.endswith("_length") for key in shown["details"])


def test_a_description_of_a_bare_checkpoint(build: Build) -> None:
    shown = description(local(build()), modified=WHEN)
    assert list(shown) == ["modelfile", "template", "details", "model_info", "capabilities", "modified_at"]
    assert shown["template"] == "{{ .Prompt }}"
    assert shown["modelfile"] == '# Modelfile generated by "ollama show"\n\nFROM m:latest\n'


def test_a_description_of_a_model_of_which_nothing_is_known() -> None:
    shown = description(UNKNOWN, modified=WHEN)
    assert list(shown) == ["modelfile", "details", "model_info", "capabilities", "modified_at"]
    assert "\nFROM me/far:latest\n" in shown["modelfile"]
    info = {"general.architecture": "unknown", "unknown.context_length": 0, "unknown.embedding_length": 0}
    assert shown["model_info"] == info


def test_the_clients_system_is_shown_and_its_options_in_the_modelfile_alone(build: Build) -> None:
    model = local(build(), FULL)
    shown = description(model, modified=WHEN, system="Rhyme.", options={"temperature": 1.0, "seed": 7, "top_k": None})
    assert shown["system"] == "Rhyme."
    assert "\nSYSTEM Rhyme.\n" in shown["modelfile"]
    assert "\nPARAMETER temperature 1\n" in shown["modelfile"]
    assert "\nPARAMETER seed 7\n" in shown["modelfile"]
    assert "top_k" not in shown["modelfile"]
    assert shown["parameters"] == description(model, modified=WHEN)["parameters"]
