"""Too little memory: on the GPU, in the machine, or on a disk."""

from vllama.engine.diagnosis._rule import Rule, traceback_through

_CUDA = (
    r"CUDA out of memory\. Tried to allocate (?P<wanted>[\d.]+ \w+)\. GPU (?P<gpu>\d+) has a total capacity of "
    r"(?P<total>[\d.]+ \w+) of which (?P<free>[\d.]+ \w+) is free"
)
_OUT_OF_MEMORY = r"[\w.]*OutOfMemoryError: " + _CUDA
_LOADING = traceback_through("in (?:load_model|initialize_model|load_weights|create_weights)")
_PREPARING = traceback_through("in (?:profile_run|_dummy_run|determine_available_memory|compile_or_warm_up_model)")
_NODE = r"Available memory on node \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\)"
_LONGER = r"To serve at least one request with the models?'s max seq len \((?P<length>\d+)\), "
_NEEDED = r"\((?P<needed>[\d.]+) GiB KV cache is needed, .* memory \((?P<room>[\d.]+) GiB\)\."
_MORE = "--gpu-memory-utilization or --memory-limit"

MEMORY = (
    Rule(
        "gpu-memory-taken",
        r"Free memory on device (?:\S+ )?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than "
        r"[^(]*\((?P<share>[\d.]+), (?P<wanted>[\d.]+) GiB\)",
        "the engine is to have {wanted} GiB of the GPU's memory, and {free} of its {total} GiB are free",
        f"end what else uses the GPU (`nvidia-smi` lists it), or give engines less with {_MORE}",
    ),
    Rule(
        "no-room-for-cache",
        r"No available memory for the cache blocks|Cannot auto-fit max_model_len",
        "the engine's memory has room for the weights, but {room} GiB for the KV cache",
        f"give the engine more with {_MORE}, lower --max-num-seqs, or use a smaller or quantised model",
        told=r"Available KV cache memory: (?P<room>-?[\d.]+) GiB",
    ),
    Rule(
        "no-room-for-cache-at-all",
        r"No available memory for the cache blocks|Cannot auto-fit max_model_len",
        "the engine's memory has room for the weights, but none for the KV cache",
        f"give the engine more with {_MORE}, lower --max-num-seqs, or use a smaller or quantised model",
    ),
    Rule(
        "context-too-long-for-cache",
        _LONGER + _NEEDED + r" Based on the available memory, the estimated maximum model length is (?P<fitting>\d+)",
        "a context of {length} tokens takes {needed} GiB of KV cache, and there are {room} GiB: enough for {fitting}",
        f"use --max-model-len {{fitting}}, or leave it out to get what fits; {_MORE} give more room",
    ),
    Rule(
        "not-one-request-fits",
        _LONGER + _NEEDED,
        "a context of {length} tokens takes {needed} GiB of KV cache, and there are {room} GiB",
        f"leave --max-model-len out to get what fits, or give the engine more with {_MORE}",
    ),
    Rule(
        "sampler-too-large",
        r"CUDA out of memory occurred when warming up \w+ (?:\(.*\) )?with (?P<requests>\d+) dummy requests",
        "the GPU's memory ran out when a batch of {requests} requests was tried",
        "lower --max-num-seqs below {requests}, or leave room with a lower --gpu-memory-utilization",
    ),
    Rule(
        "weights-too-large",
        _LOADING + _OUT_OF_MEMORY,
        "the weights do not fit into GPU {gpu}: at {free} of {total} free, loading them took another {wanted}",
        "use a smaller or quantised model, split it with --tensor-parallel-size, or end what else uses the GPU",
    ),
    Rule(
        "graphs-too-large",
        traceback_through(r"(?:/cuda/graphs|cuda_?graph\w*)\.py") + r"[\w.]+Error: CUDA (?:error: )?out of memory",
        "the weights fit into the GPU, but not the CUDA graphs beside them",
        "leave room with a lower --gpu-memory-utilization, lower --max-num-seqs, or use --enforce-eager",
    ),
    Rule(
        "warm-up-too-large",
        _PREPARING + _OUT_OF_MEMORY,
        "the weights fit into GPU {gpu}, but not a full batch: {free} of {total} were free, and {wanted} wanted",
        "lower --max-num-seqs, --max-model-len or --gpu-memory-utilization",
    ),
    Rule(
        "gpu-memory-gone",
        _CUDA,
        "GPU {gpu} ran out of memory: {free} of {total} were free, and {wanted} wanted",
        "lower --gpu-memory-utilization or --max-num-seqs, or end what else uses the GPU (`nvidia-smi` lists it)",
    ),
    Rule(
        "memory-changed",
        r"Error in memory profiling\. Initial free memory (?P<before>[\d.]+) GiB, current free memory "
        r"(?P<after>[\d.]+) GiB",
        "the GPU's free memory grew from {before} to {after} GiB while the engine measured it",
        "something else gave memory back at that moment: try again",
    ),
    Rule(
        "cpu-memory-taken",
        _NODE + r" on startup is less than desired CPU memory utilization \((?P<share>[\d.]+), (?P<wanted>[\d.]+) GiB",
        "the engine is to have {wanted} GiB of the machine's memory, and {free} of {total} GiB are free",
        "end what else takes memory, or set VLLM_CPU_KVCACHE_SPACE (GiB) in the server's environment",
    ),
    Rule(
        "cpu-cache-too-large",
        _NODE + r" on kv cache allocation is less than requested memory for kv \((?P<wanted>[\d.]+)",
        "the KV cache is to take {wanted} GiB of the machine's memory, and {free} of {total} GiB are free",
        "set VLLM_CPU_KVCACHE_SPACE in the server's environment to less, or leave it out",
    ),
    Rule(
        "shared-memory-size",
        r"Insufficient space in /dev/shm for shared-memory allocation: (?P<wanted>\d+ MiB) required, (?P<free>\d+ MiB)",
        "the engine's processes need {wanted} of shared memory to talk to each other, and /dev/shm has {free} free",
        "enlarge /dev/shm (Docker: --shm-size=2g or --ipc=host), or remove what others have left there",
    ),
    Rule(
        "shared-memory",
        r"(?:creating shared memory segment |No space left on device: ')/?(?:dev/shm|psm_|nccl)",
        "the shared memory in /dev/shm is full, by which the engine's processes talk to each other",
        "enlarge it (Docker: --shm-size=2g or --ipc=host), or remove what others have left there",
    ),
    Rule(
        "disk-full",
        r"\[Errno 28\] No space left on device|\[Errno 122\] Disk quota exceeded|\(os error 28\)",
        "the disk is full",
        "free space where HF_HOME, VLLAMA_HOME and the temporary folder are, or move them to another disk",
    ),
    Rule(
        "no-memory",
        r"^MemoryError|can't allocate memory: you tried to allocate|\[Errno 12\] Cannot allocate memory"
        r"|^(?:\w+\.)*std::bad_alloc",
        "the machine's memory ran out",
        "free RAM, raise the limit of the service or container, or set a smaller --memory-limit",
    ),
)
