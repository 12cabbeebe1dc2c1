"""The memory plan: what engines of real models take of made-up machines."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllama.engine import memory as memory_module
from vllama.engine.footprint import GIB, Footprint, footprint
from vllama.engine.memory import Memory, check_fits, plan, plan_on_cpu, pss, read_memory, share_launch
from vllama.engine.profile import Profile
from vllama.errors import DoesNotFitError
from vllama.models.inspect import Checkpoint, inspect
from vllama.scheduling.plan import AdapterLimits
from vllama.settings import Settings

QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16", "hidden_size": 2560,
    "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 40960, "vocab_size": 151936,
}  # fmt: skip
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 131072, "vocab_size": 128256,
}  # fmt: skip
GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "head_dim": 256, "sliding_window": 1024,
    },
    "vision_config": {"model_type": "siglip_vision_model", "num_hidden_layers": 27},
}  # fmt: skip
DEEPSEEK_V2_LITE = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "torch_dtype": "bfloat16",
    "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64,
    "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "max_position_embeddings": 163840, "vocab_size": 102400,
}  # fmt: skip
NOMIC_EMBED = {
    "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "n_embd": 768, "n_inner": 3072, "n_layer": 12,
    "n_head": 12, "n_positions": 8192, "vocab_size": 30528,
}  # fmt: skip

SIZES = {"qwen": 8_044_982_080, "llama": 16_060_556_376, "gemma": 8_600_236_960, "deepseek": 31_413_000_000}
CONFIGS = {"qwen": QWEN3_4B, "llama": LLAMA_8B, "gemma": GEMMA_3_4B, "deepseek": DEEPSEEK_V2_LITE, "nomic": NOMIC_EMBED}
SMALL, MIDDLE, LARGE = 8 * 10**9, 24 * GIB, 141 * 10**9

Needs = Callable[..., Footprint]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    found = {}
    for name, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text(json.dumps(config))
        dtype, width = ("F32", 4) if name == "nomic" else ("BF16", 2)
        header = json.dumps({"weight": {"dtype": dtype, "shape": [8], "data_offsets": [0, 8 * width]}}).encode()
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8 * width))
        found[name] = replace(inspect(folder), size=SIZES.get(name, 547_310_275))
    return found


@pytest.fixture
def needs(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> Needs:
    """needs(name, gpus=…, limits=…, profile=…, **settings)"""

    def needs(
        name: str,
        gpus: int = 1,
        limits: AdapterLimits | None = None,
        profile: Profile = Profile.CUDA,
        **settings: Any,
    ) -> Footprint:
        return footprint(checkpoints[name], Settings(home=tmp_path, **settings), profile, gpus, limits)

    return needs


@pytest.mark.parametrize(
    ("name", "settings", "gpus", "token", "windowed"),
    [
        ("qwen", {}, 1, 36 * 2 * 8 * 128 * 2, 0),
        ("llama", {}, 1, 131072, 0),  # 128 KiB, as is well known
        ("llama", {"vllm_args": ["--kv-cache-dtype", "fp8"]}, 1, 65536, 0),
        ("llama", {"vllm_args": ["--kv_cache_dtype=fp8_e5m2"]}, 1, 65536, 0),
        ("llama", {"dtype": "float32"}, 1, 262144, 0),
        ("llama", {}, 2, 131072, 0),
        ("llama", {}, 16, 262144, 0),  # 8 heads on 16 GPUs: each twice
        ("gemma", {}, 1, 5 * 2 * 4 * 256 * 2, 29 * 2 * 4 * 256 * 2),
        ("deepseek", {}, 1, 27 * (512 + 64) * 2, 0),
        ("deepseek", {}, 2, 2 * 27 * (512 + 64) * 2, 0),
        ("nomic", {}, 1, 12 * 2 * 12 * 64 * 2, 0),
    ],
)
def test_the_cache_of_a_token(
    needs: Needs, name: str, settings: dict[str, Any], gpus: int, token: int, windowed: int
) -> None:
    found = needs(name, gpus, **settings)
    assert (found.token, found.windowed) == (token, windowed)


def test_the_layers_that_a_config_lists(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    listed = checkpoints["qwen"].config | {
        "layer_types": ["sliding_attention"] * 30 + ["full_attention"] * 6,
        "sliding_window": 128,
    }
    found = footprint(replace(checkpoints["qwen"], config=listed), Settings(home=tmp_path), Profile.CUDA, 1, None)
    assert (found.token, found.windowed, found.window) == (6 * 4096, 30 * 4096, 128)
    unlisted = checkpoints["qwen"].config | {"sliding_window": 128}
    found = footprint(replace(checkpoints["qwen"], config=unlisted), Settings(home=tmp_path), Profile.CUDA, 1, None)
    assert (found.token, found.windowed) == (36 * 4096, 0), "an unknown pattern is taken to be none"


def test_a_window_bounds_the_cache_of_its_layers(needs: Needs) -> None:
    gemma = needs("gemma")
    assert gemma.context == 131072
    assert gemma.cache(4096) == 34 * 4096 * 4096
    assert gemma.cache(131072) == gemma.token * 131072 + gemma.windowed * (1024 + 8192)


@pytest.mark.parametrize(
    ("name", "settings", "low", "high"),
    [
        ("qwen", {}, 1.1, 2.5),
        ("llama", {}, 1.1, 2.5),
        ("gemma", {}, 2.0, 4.0),
        ("deepseek", {}, 1.1, 2.5),
        ("nomic", {}, 1.0, 1.5),
        ("qwen", {"profile": Profile.CPU}, 2.0, 3.5),
        ("qwen", {"gpus": 2}, 2.2, 5.0),
    ],
)
def test_what_comes_on_top_of_the_weights(
    needs: Needs, checkpoints: dict[str, Checkpoint], name: str, settings: dict[str, Any], low: float, high: float
) -> None:
    weights = checkpoints[name].size // (2 if name == "nomic" else 1)  # 32 bits become 16
    assert low * GIB < needs(name, **settings).fixed - weights < high * GIB


def test_weights_in_the_precision_that_was_asked_for(needs: Needs) -> None:
    assert needs("nomic", dtype="float32").fixed - needs("nomic").fixed == pytest.approx(547_310_275 / 2, abs=1)
    assert needs("qwen", dtype="float32").fixed - needs("qwen").fixed == SIZES["qwen"]
    assert needs("qwen", dtype="half").fixed == needs("qwen").fixed


def test_slots_for_adapters_take_memory(needs: Needs) -> None:
    """Of Llama 3.1 8B at rank 16 an adapter has 41,943,040 parameters for all of its modules."""
    limits = AdapterLimits(slots=16, rank=16)
    assert needs("llama", limits=limits).fixed - needs("llama").fixed == 4 * 41_943_040 * 2
    assert needs("llama", limits=limits, max_loras=1).fixed - needs("llama").fixed == 41_943_040 * 2
    assert needs("deepseek", limits=limits).fixed - needs("deepseek").fixed > 2 * GIB, "experts have adapters, too"


@pytest.mark.parametrize(
    ("settings", "context", "asked"),
    [
        ({}, 40960, False),
        ({"max_model_len": "auto"}, 40960, False),
        ({"max_model_len": "8k"}, 8000, True),
        ({"max_model_len": "100k"}, 40960, True),
        ({"vllm_args": ["--max-model-len=8K"]}, 8192, True),
    ],
)
def test_the_context(needs: Needs, settings: dict[str, Any], context: int, asked: bool) -> None:
    found = needs("qwen", **settings)
    assert (found.context, found.asked) == (context, asked)
    assert found.minimum == found.fixed + found.cache(context if asked else 4096)


def usable(total: int) -> int:
    return total - int(0.08 * total) - 1


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("total", [SMALL, MIDDLE, LARGE])
def test_a_plan_is_sound(needs: Needs, name: str, total: int) -> None:
    demand = plan(needs(name), usable(total))
    assert demand.useful >= demand.wanted >= demand.minimum == needs(name).minimum
    assert demand.useful <= max(demand.minimum, usable(total))
    whole = needs(name).fixed + needs(name).cache(needs(name).context)
    assert demand.wanted == max(demand.minimum, min(whole, demand.useful))


@pytest.mark.parametrize("name", ["qwen", "llama", "gemma"])
def test_an_embedder_fits_beside_a_chat_model(needs: Needs, name: str) -> None:
    chat, embedder = plan(needs(name), usable(MIDDLE)), plan(needs("nomic"), usable(MIDDLE))
    assert chat.useful + embedder.useful <= usable(MIDDLE)
    assert chat.useful > usable(MIDDLE) / 2
    assert embedder.wanted == embedder.useful < 2.5 * GIB


def test_a_large_gpu_is_used(needs: Needs) -> None:
    """For more sequences at once; another such model and an embedder still fit."""
    chats = 2 * plan(needs("qwen"), usable(LARGE)).useful
    assert 0.95 * usable(LARGE) < chats < usable(LARGE) - plan(needs("nomic"), usable(LARGE)).wanted
    assert plan(needs("nomic"), usable(LARGE)).wanted == plan(needs("nomic"), usable(MIDDLE)).wanted


@pytest.mark.parametrize(
    ("free", "given", "cache"),
    [(16, None, 2), (64, None, 8), (1024, None, 16), (8, None, 1), (64, 3, 3), (8, 40, 40)],
)
def test_a_plan_on_a_cpu_has_a_cache_of_whole_gibibytes(needs: Needs, free: int, given: int | None, cache: int) -> None:
    found = needs("qwen", profile=Profile.CPU)
    demand = plan_on_cpu(found, free * GIB, given)
    assert demand.useful - found.fixed == cache * GIB
    assert demand.minimum - found.fixed == (cache if given else 1) * GIB


def refusal(found: Footprint, most: int, sibling: str | None = None, gpus: int = 1, visible: int = 1) -> str:
    memory = Memory(most, most, most, gpus, visible)
    with pytest.raises(DoesNotFitError) as error:
        check_fits("big:8b", found, plan(found, most), most, memory, lambda: sibling)
    return str(error.value)


def test_what_cannot_fit_is_refused_with_the_numbers(needs: Needs) -> None:
    found = needs("deepseek")
    text = refusal(found, usable(MIDDLE))
    assert text == "big:8b needs 34 GB of GPU memory, 23 GB free: try a smaller or quantised model"
    assert refusal(found, usable(MIDDLE), "big:8b-awq").endswith(": try big:8b-awq")
    assert "needs 34 GB of RAM, 1.4 GB free" in refusal(found, 1_490_000_000, gpus=0)


def test_a_context_that_cannot_fit_is_refused_with_one_that_does(needs: Needs) -> None:
    found = needs("llama", max_model_len="128K")
    longest = found.longest(usable(MIDDLE))
    assert found.fixed + found.cache(longest) <= usable(MIDDLE) < found.fixed + found.cache(longest + 1024)
    assert refusal(found, usable(MIDDLE)) == (
        f"big:8b needs 36 GB of GPU memory, 23 GB free: try --max-model-len {longest}"
    )
    assert refusal(found, usable(MIDDLE), "big:awq").endswith(f"try big:awq or --max-model-len {longest}")
    assert refusal(found, SMALL).endswith("try a smaller or quantised model"), "no context is short enough"


def test_what_fits_is_not_refused(needs: Needs) -> None:
    found = needs("llama")
    check_fits("x", found, plan(found, found.minimum), found.minimum, Memory(0, 0, 0, 1), lambda: None)


@pytest.mark.parametrize(
    ("gpus", "visible", "most", "advice"),
    [
        (1, 1, MIDDLE, "a smaller or quantised model"),
        (1, 2, MIDDLE, "--tensor-parallel-size 2"),
        (1, 8, MIDDLE, "--tensor-parallel-size 2"),
        (1, 8, 10 * 10**9, "--tensor-parallel-size 4"),
        (2, 4, 20 * 10**9, "--tensor-parallel-size 4"),
        (1, 4, 4 * 10**9, "a smaller or quantised model"),
    ],
)
def test_gpus_that_lie_idle_are_named(needs: Needs, gpus: int, visible: int, most: int, advice: str) -> None:
    assert refusal(needs("deepseek"), most, gpus=gpus, visible=visible).endswith(f": try {advice}")


@pytest.mark.parametrize(
    ("share", "user", "arguments"),
    [
        (MIDDLE // 2, [], ("--gpu-memory-utilization", "0.5")),
        (MIDDLE // 3, [], ("--gpu-memory-utilization", "0.333")),
        (MIDDLE // 2, ["--gpu_memory_utilization=0.3"], ()),
        (MIDDLE // 2, ["--kv-cache-memory-bytes", "1G"], ()),
    ],
)
def test_a_share_of_a_gpu(needs: Needs, share: int, user: list[str], arguments: tuple[str, ...]) -> None:
    memory = Memory(MIDDLE, usable(MIDDLE), usable(MIDDLE), 1)
    launch = share_launch(share, memory, needs("qwen"), user)
    assert (launch.arguments, launch.variables) == (arguments, {})


@pytest.mark.parametrize(("more", "cache"), [(0, "1"), (GIB, "1"), (5 * GIB // 2, "2"), (9 * GIB, "9")])
def test_a_share_of_a_cpus_memory(needs: Needs, more: int, cache: str) -> None:
    found = needs("qwen", profile=Profile.CPU)
    launch = share_launch(found.fixed + more, Memory(64 * GIB, 0, 0, 0), found, [])
    assert (launch.arguments, launch.variables) == ((), {"VLLM_CPU_KVCACHE_SPACE": cache})


@dataclass
class Nvml:
    """NVML with made-up GPUs: (total, free) of each."""

    gpus: list[tuple[int, int]]
    shut: int = 0

    def nvmlInit(self) -> None:  # noqa: N802 - its own names
        self.shut -= 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return int(uuid[-1])

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-abc{handle}-00"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        total, free = self.gpus[handle]
        return SimpleNamespace(total=total, free=free)


@pytest.mark.parametrize(
    ("visible", "count", "total", "free"),
    [
        (None, 1, 1000, 420),
        (None, 2, 2000, 640),
        ("2", 1, 3000, 2260),
        ("2,0", 1, 3000, 2260),
        (" 1 , 2", 2, 4000, 480),
        ("GPU-abc2", 1, 3000, 2260),
        ("MIG-1", 1, 2000, 240),
    ],
)
def test_the_memory_of_the_gpus_that_an_engine_uses(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, total: int, free: int
) -> None:
    nvml = Nvml([(1000, 500), (2000, 400), (3000, 2500)])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    memory = read_memory(Profile.CUDA, count)
    assert (memory.total, memory.free, memory.gpus, memory.kind) == (total, free, count, "GPU memory")
    assert memory.usable == 0.92 * total
    assert nvml.shut == 0


@pytest.mark.parametrize("gpus", [[], [(0, 0)]])
def test_without_a_gpu_that_tells_its_memory_it_is_the_ram(
    monkeypatch: pytest.MonkeyPatch, gpus: list[tuple[int, int]]
) -> None:
    nvml = Nvml(gpus)
    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", None)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    memory = read_memory(Profile.CUDA)
    assert (memory.gpus, memory.kind) == (0, "RAM")
    assert memory.total > 0


@pytest.mark.parametrize(
    ("files", "total", "available"),
    [
        ({}, 1000, 800),
        ({"memory.max": "max", "memory.current": "5"}, 1000, 800),
        (
            {"memory.max": "400", "memory.current": "350", "memory.stat": "anon 1\ninactive_file 100\nx 3\n"},
            400,
            150,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "300",
                "memory/memory.usage_in_bytes": "310",
                "memory/memory.stat": "inactive_file 7\n",
            },
            300,
            0,
        ),
        ({"memory.max": "5000", "memory.current": "5000", "memory.stat": ""}, 1000, 0),
    ],
    ids=["none", "no limit", "version 2", "version 1", "a limit above what there is"],
)
def test_ram_is_what_the_cgroup_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], total: int, available: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(memory_module, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory_module.psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=800))
    memory = read_memory(Profile.CPU)
    reserve = -(-total // 20)
    assert memory == Memory(total, max(0, available - reserve), total - reserve, 0)


def test_a_kernel_that_does_not_tell_who_shares_what(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, read_text = pss(os.getpid()), Path.read_text

    def without_shares(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "smaps_rollup":
            raise PermissionError
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", without_shares)
    assert 0.5 * exact < pss(os.getpid()) < 2 * exact
    assert pss(2**22 + 1) == 0
