"""What a config.json tells: lengths, and how the makers would have a model sampled."""

from typing import Any

import pytest

from tests.models.conftest import Build
from vllama.models.inspect import inspect

CONTEXTS: list[tuple[dict[str, Any], int]] = [
    ({"max_position_embeddings": 8192}, 8192),
    ({"max_position_embeddings": 8192, "seq_length": 2048}, 2048),
    ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
    ({"n_positions": 1024}, 1024),
    ({}, 2048),
    ({"max_position_embeddings": "many"}, 2048),
    ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
    ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 8192),
    ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 131072),
    ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
    ({"max_position_embeddings": 32768, "rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, 32768),
    ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": None}}, 4096),
    (
        {
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "longrope", "long_factor": [1.0]},
        },
        4096,
    ),
    (
        {"max_position_embeddings": 4096, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2}}},
        8192,
    ),
    (
        {
            "model_type": "gemma3",
            "text_config": {"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        },
        131072,
    ),
    ({"text_config": {"max_position_embeddings": 1000}}, 1000),
    ({"thinker_config": {"text_config": {"max_position_embeddings": 3000}}}, 3000),
    ({"model_type": "llava", "text_config": {"model_type": "llama", "max_position_embeddings": 4096}}, 4096),
    # As published: Llama 4 Scout, gpt-oss, Qwen2.5-1M, Phi-3's 128k, Gemma 3n, PaliGemma 2, Whisper, ModernBERT, nomic.
    (
        {
            "model_type": "llama4",
            "text_config": {
                "model_type": "llama4_text",
                "max_position_embeddings": 10485760,
                "attention_chunk_size": 8192,
                "rope_scaling": {"factor": 16.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            },
        },
        10485760,
    ),
    (
        {
            "model_type": "gpt_oss",
            "initial_context_length": 4096,
            "max_position_embeddings": 131072,
            "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn"},
        },
        131072,
    ),
    (
        {
            "model_type": "qwen2",
            "max_position_embeddings": 1010000,
            "dual_chunk_attention_config": {"chunk_size": 262144, "original_max_position_embeddings": 262144},
            "sliding_window": 32768,
            "use_sliding_window": False,
        },
        1010000,
    ),
    (
        {
            "model_type": "phi3",
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "su", "long_factor": [1.0], "short_factor": [1.0]},
            "sliding_window": 262144,
        },
        4096,
    ),
    ({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text"}}, 32768),
    ({"model_type": "paligemma", "text_config": {"model_type": "gemma2", "hidden_size": 2304}}, 8192),
    ({"model_type": "mistral", "max_position_embeddings": 32768, "sliding_window": 4096}, 32768),
    ({"model_type": "whisper", "max_length": 448, "max_source_positions": 1500, "max_target_positions": 448}, 448),
    ({"model_type": "modernbert", "max_position_embeddings": 8192, "local_attention": 128}, 8192),
    ({"model_type": "nomic_bert", "n_positions": 8192, "max_trained_positions": 2048}, 8192),
    (
        {
            "model_type": "deepseek_v3",
            "max_position_embeddings": 163840,
            "rope_scaling": {"factor": 40, "original_max_position_embeddings": 4096, "type": "yarn"},
        },
        163840,
    ),
    ({"model_type": "qwen3", "max_position_embeddings": 40960, "max_window_layers": 36, "rope_scaling": None}, 40960),
]


@pytest.mark.parametrize(("config", "expected"), CONTEXTS)
def test_context_length(build: Build, config: dict[str, Any], expected: int) -> None:
    assert inspect(build({"architectures": ["XForCausalLM"]} | config)).context_length == expected


def test_rope_frequency_base_of_the_new_form(build: Build) -> None:
    config = {"architectures": ["XForCausalLM"], "rope_parameters": {"full_attention": {"rope_theta": 500000.0}}}
    assert inspect(build(config)).rope_frequency_base == 500000.0


SAMPLING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": 2, "max_new_tokens": 9},
        {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    ),
    ({"repetition_penalty": 1.05, "min_p": 0.1, "top_k": 0}, {"repeat_penalty": 1.05, "min_p": 0.1, "top_k": 0}),
    ({"do_sample": False, "temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.1},
     {"temperature": 0.0, "repeat_penalty": 1.1}),
    ({"do_sample": None, "top_k": 20.0}, {"top_k": 20}),
    ({"temperature": "hot", "top_k": True, "top_p": None, "min_p": -1, "repetition_penalty": [1]}, {}),
    ({"temperature": 1e300}, {}),
    ({}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("generation", "parameters"), SAMPLING)
def test_how_its_makers_would_have_it_sampled(
    build: Build, generation: dict[str, Any], parameters: dict[str, Any]
) -> None:
    read = inspect(build(files={"generation_config.json": generation})).parameters
    assert (read, type(read.get("top_k"))) == (parameters, type(parameters.get("top_k")))


@pytest.mark.parametrize("content", ["{", "[1]", '{"temperature": NaN}', b"\xff", None])
def test_a_generation_config_that_says_nothing(build: Build, content: Any) -> None:
    assert inspect(build(files={"generation_config.json": content})).parameters == {}
