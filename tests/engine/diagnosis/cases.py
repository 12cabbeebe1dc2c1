"""The logs that the rules were written from, and what is made of each."""

from dataclasses import dataclass
from pathlib import Path

LOGS = Path(__file__).with_name("logs")

HERE = "vLLM 0.32 on a CPU, provoked as `provoke.py` does it, and shortened"
SOURCE = "no log at hand: the text as vLLM 0.32 writes it, in "
ISSUE = "https://github.com/vllm-project/vllm/issues/"


@dataclass(frozen=True)
class Case:
    """rule: its name, None where none is to fit. cause: what is said, or its beginning. origin: where the log is from.

    status: the exit status that came with it.
    """

    rule: str | None
    cause: str
    origin: str = HERE
    status: int = 1

    def __str__(self) -> str:
        return self.origin


CASES = {
    # The model
    "gated_repository": Case(
        "gated-repository",
        "the repository meta-llama/Llama-3.2-1B-Instruct is gated",
        "https://github.com/sgl-project/sglang/pull/14644",
    ),
    "missing_repository": Case(
        "missing-repository",
        "the hub has no repository nobody/nothing, or shows it only to some",
        "no log at hand: the text as huggingface_hub writes it, in utils/_http.py",
    ),
    "not_in_cache": Case("not-in-cache", "files that the model needs are not on this machine, and engines get none"),
    "hub_unreachable": Case("not-in-cache", "files that the model needs are not on this machine, and engines get none"),
    "remote_code": Case("remote-code", "the model comes with code of its own, which is not run unless you allow it"),
    "remote_code_packages": Case(
        "remote-code-packages",
        "the model's own code needs Python packages that the engine's environment lacks (einops_of_nowhere)",
    ),
    "unknown_model_type": Case("unknown-model-type", "vLLM's Transformers library does not know the model type foozle"),
    "no_model_type": Case(
        "no-model-type", "the config.json in /models/no_model_type does not say of which type the model is (model_type)"
    ),
    "unknown_architecture": Case("unknown-architecture", "vLLM does not know the architecture FooForCausalLM"),
    "broken_config": Case("broken-config", "/models/broken_config/config.json is no valid JSON"),
    "no_config": Case("no-config", "/models/no_config has no config.json"),
    "adapter_as_model": Case("no-config", "/models/adapter_as_model has no config.json"),
    "no_tokenizer": Case("no-tokenizer", "the model has no usable tokenizer"),
    "broken_tokenizer": Case(
        "broken-tokenizer",
        "a file of the model's tokenizer is no valid JSON (Expecting value: line 1 column 13 (char 12))",
    ),
    "missing_shard": Case(
        "missing-shards",
        "the weights are incomplete: /models/missing_shard/model-00002-of-00002.safetensors is missing",
    ),
    "no_weights": Case("no-weights", "/models/missing holds no weights that vLLM can read"),
    "tiny_weights": Case(
        "broken-header", "a file of weights is no safetensors file: it is damaged, or a pointer of Git LFS in its place"
    ),
    "git_lfs": Case(
        "broken-header", "a file of weights is no safetensors file: it is damaged, or a pointer of Git LFS in its place"
    ),
    "corrupt_header": Case(
        "broken-header-in-config",
        "a file of weights has a damaged header (Unterminated string starting at: line 1 column 2973 (char 2972))",
    ),
    "cut_off_weights": Case(
        "cut-off-weights",
        "a file of weights is cut off or damaged (Error while deserializing header: incomplete metadata, file not "
        "fully covered)",
    ),
    "foreign_weights": Case("foreign-weights", "the weights do not belong to config.json: Qwen3Model has no layers.9"),
    "missing_tensors": Case(
        "missing-tensors",
        "the weights are incomplete: there is no model.layers.1.mlp.down_proj.weight_scale among them",
        SOURCE + "vllm/model_executor/model_loader/default_loader.py",
    ),
    "wrong_shapes": Case(
        "wrong-shapes",
        "the weights do not have the shape that config.json tells (start (0) + length (320) exceeds dimension size "
        "(256))",
    ),
    "adapter_rank": Case(
        "adapter-rank", "an adapter has rank 8, and the engine takes ranks up to 1", SOURCE + "vllm/lora/peft_helper.py"
    ),
    "adapter_missing": Case(
        "adapter-missing", "there is no adapter a in /models/nowhere", SOURCE + "vllm/exceptions.py"
    ),
    "unknown_quantization": Case("unknown-quantization", "vLLM does not know the quantisation method foo"),
    "other_quantization": Case(
        "other-quantization", "the checkpoint is quantised by gptq, and --quantization asks for awq"
    ),
    "wrong_quantization": Case(
        "not-quantized", "--quantization asks for awq, and the checkpoint is not quantised that way"
    ),
    "half_quantization": Case("half-quantization", "the quantization_config of the checkpoint lacks 'sym'"),
    "quantization_not_here": Case(
        "quantization-not-here",
        "vLLM cannot run awq_marlin quantisation on this hardware (cpu)",
        SOURCE + "vllm/platforms/interface.py",
    ),
    "dtype_for_quantization": Case(
        "dtype-for-quantization",
        "awq quantisation does not work with the type bfloat16",
        SOURCE + "vllm/config/vllm.py",
    ),
    "context_too_long": Case("context-too-long", "a context of 1000000 tokens is longer than the model's 4096"),
    "indivisible_heads": Case("heads-not-divisible", "the model's 4 attention heads cannot be split over 3 GPUs"),
    # Memory
    "gpu_memory_taken": Case(
        "gpu-memory-taken",
        "the engine is to have 45.01 GiB of the GPU's memory, and 31.44 of its 47.38 GiB are free",
        ISSUE + "20305",
    ),
    "gpu_memory_taken_now": Case(
        "gpu-memory-taken",
        "the engine is to have 3.68 GiB of the GPU's memory, and 3.22 of its 4.0 GiB are free",
        SOURCE + "vllm/v1/worker/utils.py",
    ),
    "no_room_for_cache": Case(
        "no-room-for-cache",
        "the engine's memory has room for the weights, but -1.32 GiB for the KV cache",
        SOURCE + "vllm/v1/worker/gpu_worker.py and vllm/v1/core/kv_cache_utils.py",
    ),
    "no_room_for_cache_at_all": Case(
        "no-room-for-cache-at-all",
        "the engine's memory has room for the weights, but none for the KV cache",
        "https://github.com/vllm-project/vllm-omni/issues/946",
    ),
    "context_too_long_for_cache": Case(
        "context-too-long-for-cache",
        "a context of 3000000 tokens takes 4.29 GiB of KV cache, and there are 1.0 GiB: enough for 698880",
    ),
    "context_too_long_for_gpu": Case(
        "context-too-long-for-cache",
        "a context of 262144 tokens takes 24.0 GiB of KV cache, and there are 3.18 GiB: enough for 34736",
        ISSUE + "34076",
    ),
    "not_one_request_fits": Case(
        "not-one-request-fits",
        "a context of 1048576 tokens takes 24.00 GiB of KV cache, and there are 9.97 GiB",
        ISSUE + "16118",
    ),
    "sampler_too_large": Case(
        "sampler-too-large", "the GPU's memory ran out when a batch of 256 requests was tried", ISSUE + "17939"
    ),
    "weights_too_large": Case(
        "weights-too-large",
        "the weights do not fit into GPU 0: at 739.81 MiB of 93.09 GiB free, loading them took another 896.00 MiB",
        ISSUE + "28143, its first line written as the exception that ends it",
    ),
    "graphs_too_large": Case(
        "graphs-too-large", "the weights fit into the GPU, but not the CUDA graphs beside them", ISSUE + "18446"
    ),
    "warm_up_too_large": Case(
        "warm-up-too-large",
        "the weights fit into GPU 1, but not a full batch: 605.88 MiB of 23.57 GiB were free, and 1.74 GiB wanted",
        ISSUE + "15105, in a traceback through vllm/v1/worker/gpu_worker.py of vLLM 0.32",
    ),
    "gpu_memory_gone": Case(
        "gpu-memory-gone",
        "GPU 0 ran out of memory: 16.00 MiB of 79.33 GiB were free, and 128.00 MiB wanted",
        ISSUE + "15039",
    ),
    "memory_changed": Case(
        "memory-changed",
        "the GPU's free memory grew from 20.11 to 21.5 GiB while the engine measured it",
        SOURCE + "vllm/v1/worker/gpu_worker.py",
    ),
    "cpu_cache_too_large": Case(
        "cpu-cache-too-large",
        "the KV cache is to take 100000.0 GiB of the machine's memory, and 16.9 of 18.71 GiB are free",
    ),
    "cpu_memory_taken": Case(
        "cpu-memory-taken",
        "the engine is to have 17.21 GiB of the machine's memory, and 12.21 of 18.71 GiB are free",
        SOURCE + "vllm/v1/worker/cpu_worker.py",
    ),
    "no_memory": Case("no-memory", "the machine's memory ran out", "no log at hand: the text of PyTorch's allocator"),
    "disk_full": Case("disk-full", "the disk is full", "no log at hand: the text of Python's OSError"),
    "shared_memory_size": Case(
        "shared-memory-size",
        "the engine's processes need 160 MiB of shared memory to talk to each other, and /dev/shm has 0 MiB free",
    ),
    "nccl_shared_memory": Case(
        "shared-memory",
        "the shared memory in /dev/shm is full, by which the engine's processes talk to each other",
        "https://github.com/MiniMax-AI/MiniMax-01/issues/42",
    ),
    # The machine
    "old_driver": Case(
        "old-driver",
        "the NVIDIA driver is too old: it goes up to CUDA 11.4, and vLLM was built for a later one",
        "https://github.com/lllyasviel/Fooocus/issues/1313",
    ),
    "insufficient_driver": Case(
        "insufficient-driver",
        "the NVIDIA driver is older than the CUDA that vLLM was built for",
        "no log at hand: the text of CUDA's error 35",
    ),
    "no_gpu": Case("no-gpu", "vLLM sees no GPU", ISSUE + "13946"),
    "no_gpu_in_worker": Case("no-gpu", "vLLM sees no GPU", ISSUE + "807"),
    "no_bfloat16": Case(
        "no-bfloat16",
        "the GPU (Tesla V100-SXM2-32GB, compute capability 7.0) cannot compute in bfloat16, which needs 8.0",
        "https://github.com/hiyouga/LlamaFactory/issues/4960",
    ),
    "gpu_too_old_for_quantization": Case(
        "gpu-too-old-for-quantization",
        "fp8 quantisation needs a GPU of compute capability 9.0, and this one has 8.6",
        ISSUE + "4327",
    ),
    "gpu_too_old_for_scheme": Case(
        "gpu-too-old-for-scheme",
        "its quantisation needs a GPU of compute capability 8.0, and this one has 7.5",
        ISSUE + "14040",
    ),
    "no_kernels": Case("no-kernels", "vLLM was not built for a GPU of this generation", ISSUE + "14452"),
    "too_few_gpus": Case(
        "too-few-gpus",
        "the model is to be split over 4 GPUs, and there are 2",
        SOURCE + "vllm/config/parallel.py",
    ),
    "too_few_gpus_before": Case(
        "too-few-gpus",
        "the model is to be split over 2 GPUs, and there are 1",
        "https://github.com/ai-dynamo/dynamo/issues/4934",
    ),
    "nccl": Case("nccl", "the GPUs cannot talk to each other (NCCL: unhandled cuda error)", ISSUE + "6732"),
    "nccl_torch": Case("nccl", "the GPUs cannot talk to each other (NCCL: unhandled system error)", ISSUE + "4618"),
    "address_in_use": Case("address-taken", "the port or socket that vLLM is to listen on is taken"),
    "socket_taken": Case("address-taken", "the port or socket that vLLM is to listen on is taken"),
    "socket_path": Case("socket-path", "the path of the engine's socket is longer than the 107 bytes that Linux"),
    "no_command": Case("no-command", "the engine runs the command lscpu, and it is not installed, or not in PATH"),
    "open_files": Case("open-files", "the engine may not open as many files as it needs"),
    "threads": Case(
        "threads",
        "the engine may not start as many processes and threads as it needs",
        "no log at hand: the text of Python's threading",
    ),
    "no_c_compiler": Case(
        "no-compiler", "compiling the model takes a C and C++ compiler, and none is found", ISSUE + "15329"
    ),
    # The environment
    "unknown_flag": Case("unknown-flag", "vLLM has no flag --max-modl-len"),
    "invalid_choice": Case(
        "wrong-flag", "vLLM refuses its command line: argument --dtype: invalid choice: 'float15' (choose from"
    ),
    "unknown_parser": Case("unknown-parser", "vLLM has no tool call parser nosuch"),
    "missing_module": Case("missing-module", "the engine's environment is damaged (No module named 'msgspec')"),
    "versions_at_odds": Case(
        "versions-at-odds",
        "the packages in the engine's environment do not fit each other (cannot import name 'PreTrainedConfig' from",
    ),
    "undefined_symbol": Case(
        "versions-at-odds",
        "the packages in the engine's environment do not fit each other (/workspace/vllm-abo/vllm/_C.abi3.so: "
        "undefined symbol: _ZN5torch3jit17parseSchemaOrNameERKSsb)",
        ISSUE + "13608",
    ),
    "worker_vanished": Case("vanished", "a process of it ended without a word while the model was loaded"),
    "core_vanished": Case("vanished", "a process of it ended without a word while the model was loaded"),
    # Signals
    "worker_killed": Case(
        "killed",
        "a process of it was killed (SIGKILL), as Linux does where the machine's memory runs out",
        SOURCE + "vllm/v1/executor/multiproc_executor.py",
    ),
    "illegal_instruction": Case(
        "illegal-instruction",
        "the processor does not know an instruction that vLLM was built with, or may not use it here (SIGILL)",
    ),
    # What no rule knows
    "wrong_type": Case(None, "hf_overrides.dict[str,any]: Input should be a valid dictionary"),
}
