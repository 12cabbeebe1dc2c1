"""LoRA on an engine: for whom it is started, and what vLLM's errors mean."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.each import each
from vllama.engine.adapters import WITHOUT_ADAPTERS, adapter_launch, adapter_limits, loading_failure
from vllama.engine.install import Profile
from vllama.models.adapters import Adapter
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.scheduling.plan import AdapterLimits
from vllama.settings import Settings


def adapter_of(base: Model, rank: int, trouble: str = "") -> Model:
    made = Adapter(Path("/adapters", str(rank)), "", rank, 1, "0" * 64, datetime.now(UTC), ("q_proj",), trouble)
    return replace(base, name=parse(f"adapter-{rank}"), adapter=made)


def limits_of(model: Model, *models: Model, **settings: Any) -> AdapterLimits | None:
    assert model.checkpoint is not None
    return adapter_limits(model, model.checkpoint, models, Settings(**settings))


@pytest.mark.parametrize(
    ("ranks", "settings", "limits"),
    [
        ((), {}, None),
        ((), {"max_loras": 2}, (8, 16)),
        ((8,), {}, (16, 16)),
        ((8, 17), {}, (16, 32)),
        ((64,), {}, (16, 64)),
        ((300,), {}, (16, 320)),
        ((8, 513), {}, (16, 16)),  # refused when it is asked for
        ((8,), {"max_loras": 1}, (4, 16)),
        ((8,), {"max_cpu_loras": 2}, (2, 16)),
        ((8,), {"max_loras": 2, "max_cpu_loras": 5}, (5, 16)),
        ((8,), {"max_lora_rank": 128}, (16, 128)),
        ((64,), {"max_lora_rank": 8}, (16, 8)),
        ((), {"vllm_args": ["--enable-lora"]}, (16, 16)),
        ((), {"vllm_args": ["--enable_lora", "--max-loras=3", "--max_lora_rank", "256"]}, (12, 256)),
        ((8,), {"vllm_args": ["--max-cpu-loras", "7"]}, (7, 16)),
        ((8,), {"vllm_args": ["--no-enable-lora"]}, None),
    ],
)
def test_room_for_adapters(
    models: dict[str, Model], ranks: Sequence[int], settings: dict[str, Any], limits: tuple[int, int] | None
) -> None:
    demo = models["demo"]
    found = limits_of(demo, demo, *(adapter_of(demo, rank) for rank in ranks), **settings)
    assert found == (AdapterLimits(*limits) if limits else None)


def test_an_adapter_needs_no_other_to_be_loaded(models: dict[str, Model]) -> None:
    assert limits_of(adapter_of(models["demo"], 32)) == AdapterLimits(16, 32)


def test_adapters_that_do_not_concern_an_engine(models: dict[str, Model]) -> None:
    demo, plain = models["demo"], models["plain"]
    assert limits_of(demo, adapter_of(plain, 8)) is None, "on other weights"
    assert limits_of(demo, adapter_of(demo, 8, trouble="it is a DoRA")) is None, "never loaded"
    embed = models["demo-embed"]
    assert limits_of(embed, adapter_of(embed, 8)) is None, "it does not generate"
    assert demo.checkpoint is not None
    for architecture in ("GPT2LMHeadModel", "Gemma3nForCausalLM"):
        assert architecture in WITHOUT_ADAPTERS
        unable = replace(demo, checkpoint=replace(demo.checkpoint, architecture=architecture))
        assert limits_of(unable, adapter_of(unable, 8)) is None


LIMITS = AdapterLimits(slots=16, rank=32)
ALL = ["--enable-lora", "--max-loras", "4", "--max-cpu-loras", "16", "--max-lora-rank", "32"]


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, ALL),
        ({"max_loras": 2}, ["--enable-lora", "--max-loras", "2", *ALL[3:]]),
        ({"vllm_args": ["--enable-lora", "--max-loras=2"]}, ALL[3:]),
        ({"vllm_args": ["--max_lora_rank", "64", "--max_cpu_loras", "4"]}, ALL[:3]),
    ],
)
def test_flags(settings: dict[str, Any], arguments: list[str]) -> None:
    launch = adapter_launch(LIMITS, Settings(**settings), Profile.CUDA)
    assert list(launch.arguments) == arguments
    assert launch.variables == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}


def test_a_cpu_engine_has_the_worker_that_leaves_the_base_alone() -> None:
    launch = adapter_launch(LIMITS, Settings(), Profile.CPU)
    assert list(launch.arguments) == [*ALL, "--worker-cls", "vllama_engine.cpu_worker.AdapterWorker"]
    theirs = Settings(vllm_args=["--worker-cls=mine.Worker"])
    assert list(adapter_launch(LIMITS, theirs, Profile.CPU).arguments) == ALL


WRAPPED = (
    "Call to add_lora method failed: Worker failed with error '{}', please check the stack trace above for the root "
    "cause"
)


@each(
    ("said", "text"),
    [
        (
            WRAPPED.format("LoRA rank 64 is greater than max_lora_rank 16."),
            "the adapter in /a has rank 64 and its engine takes ranks up to 16: start the server with --max-lora-rank, "
            "or `vllama merge` makes a model of it and its base",
        ),
        (
            "Loading lora x failed: No adapter found for /a",
            "the adapter in /a is not there, or has no adapter_config.json: check the folder",
        ),
        (
            WRAPPED.format("<path> doesn't contain tensors"),
            "the adapter in /a has no whole adapter_model.safetensors: copy or download it again",
        ),
        (
            WRAPPED.format("Error while deserializing header: incomplete metadata, file not fully covered"),
            "the adapter in /a has no whole adapter_model.safetensors: copy or download it again",
        ),
        (
            WRAPPED.format(
                "While loading <path>, expected target modules in {'q_proj', 'lm_head'} but received "
                "['model.layers.0.self_attn.strange_proj', 'model.layers.1.x']. Please"
            ),
            "the adapter in /a changes model.layers.0.self_attn.strange_proj, which its base model does not have or "
            "vLLM cannot adapt: check that the base is the model it was trained on, or `vllama merge` makes a model of "
            "it and its base",
        ),
        (
            WRAPPED.format(
                "The size of tensor a (16) must match the size of tensor b (128) at non-singleton dimension 0"
            ),
            "the adapter in /a does not fit the shape of its base model: name the base that it was trained on: "
            "--lora NAME=PATH@BASE",
        ),
        (
            WRAPPED.format("vLLM does not yet support DoRA."),
            "vLLM cannot load the adapter in /a: vLLM does not yet support DoRA: `vllama merge` makes a model of it",
        ),
        ("Internal Server Error", "vLLM cannot load the adapter in /a: Internal Server Error: `vllama merge` makes"),
    ],
)
def test_what_vllm_says_of_an_adapter(said: str, text: str) -> None:
    assert str(loading_failure(Path("/a"), said)).startswith(text)
