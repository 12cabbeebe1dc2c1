"""Where a start is, from logs of vLLM 0.32: whole ones of a CPU, and lines as its source has them for GPUs."""

from pathlib import Path

import pytest

from tests.each import each
from vllama.engine.progress import Phase, Progress

STARTS = Path(__file__).with_name("starts")
WORKER = "(Worker_TP0 pid=812) INFO 11-21 15:33:08 [gpu_model_runner.py:5040] "
CORE = "(EngineCore pid=709) INFO 11-21 15:33:10 [core.py:402] "


class Start(Progress):
    """One that the engine has launched. now: of its clock. seen: what was told, in its order."""

    def __init__(self, phase: Phase | None = Phase.IMPORTING) -> None:
        self.now = 0.0
        self.seen: list[tuple[Phase | None, str]] = []
        super().__init__(lambda: self.now)
        self.enter(phase)
        self.on_change = lambda: self.seen.append((self.phase, self.detail))

    def read_all(self, *lines: str) -> None:
        for line in lines:
            self.now += 1.0
            self.read(line)


def test_phases_take_the_time_between_them() -> None:
    start = Start()
    start.now = 3.0
    start.enter(Phase.READING)
    start.enter(Phase.READING)
    start.now = 5.0
    start.enter(None)
    assert [(step.phase, step.seconds) for step in start.steps] == [(Phase.IMPORTING, 3.0), (Phase.READING, 2.0)]
    assert start.seen == [(Phase.READING, ""), (None, "")]
    assert (start.phase, start.changed_at) == (None, 5.0)


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("cpu_eager", [Phase.READING, Phase.ALLOCATING, Phase.WARMING]),
        ("cpu_compiled", [Phase.READING, Phase.COMPILING, Phase.ALLOCATING, Phase.WARMING]),
    ],
)
def test_a_start_on_a_cpu(name: str, phases: list[Phase]) -> None:
    start = Start()
    start.read_all(*(STARTS / f"{name}.log").read_bytes().decode().split("\n"))
    entered = [phase for phase, detail in start.seen if not detail]
    assert entered == phases
    assert (Phase.READING, "1 of 1") in start.seen


def test_a_start_on_a_gpu() -> None:
    """In the order of the first model runner: the graphs to be captured are tried before the cache is allocated."""
    start = Start()
    start.read_all(
        WORKER + "Starting to load model /models/chat...",
        "\rLoading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]",
        "\rLoading safetensors checkpoint shards:  25% Completed | 1/4 [00:02<00:06,  2.01s/it]",
        "\rLoading safetensors checkpoint shards: 100% Completed | 4/4 [00:08<00:00,  2.01s/it]",
        WORKER + "Loading weights took 8.14 seconds",
        WORKER + "Model loading took 14.25 GiB memory and 9.012345 seconds",
        WORKER + "[backbone] Starting torch.compile",
        WORKER + "[backbone] Using cache directory: /cache/torch_compile_cache/1 for vLLM's torch.compile",
        WORKER + "[backbone] Dynamo bytecode transform time: 5.31 s",
        WORKER + "[backbone] Compiling a graph for compile range (1, 8192) takes 20.10 s",
        WORKER + "[backbone] torch.compile took 27.01 s in total",
        WORKER + "Profiling CUDA graph memory: PIECEWISE=35 (largest=512), FULL=35 (largest=512)",
        WORKER + "Available KV cache memory: 51.20 GiB",
        CORE + "GPU KV cache size: 372,816 tokens, Maximum concurrency for 40,960 tokens per request: 9.10x",
        WORKER + "JIT kernel warmup starting.",
        "JIT kernel warmup (12 compile keys):  50%|█████     | 1/2 [00:01<00:01,  1.00s/kernel]",
        WORKER + "JIT kernel warmup finished in 2.00s.",
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  34%|███▍      | 12/35 [00:01<00:02,  9.13it/s]",
        "Capturing CUDA graphs (decode, FULL): 100%|██████████| 35/35 [00:03<00:00, 11.01it/s]",
        WORKER + "Graph capturing finished in 6 secs, took 0.61 GiB",
        CORE + "init engine (profile, create kv cache, warmup model) took 45.10 s (compilation: 27.01 s)",
        "(APIServer pid=1) INFO 11-21 15:33:49 [entry.py:140] Starting vLLM server on unix:/run/engine.sock",
    )
    assert start.seen == [
        (Phase.READING, ""),
        (Phase.READING, "0 of 4"),
        (Phase.READING, "1 of 4"),
        (Phase.READING, "4 of 4"),
        (Phase.COMPILING, ""),
        (Phase.ALLOCATING, ""),
        (Phase.COMPILING, ""),
        (Phase.COMPILING, "1 of 2"),
        (Phase.CAPTURING, ""),
        (Phase.CAPTURING, "12 of 35"),
        (Phase.CAPTURING, "35 of 35"),
        (Phase.WARMING, ""),
    ]
    assert [step.phase for step in start.steps] == [
        Phase.IMPORTING, Phase.READING, Phase.COMPILING, Phase.ALLOCATING, Phase.COMPILING, Phase.CAPTURING,
    ]  # fmt: skip
    assert sum(step.seconds for step in start.steps) == 21.0


@each(
    ("line", "phase"),
    [
        (WORKER + "Loading model from scratch...", Phase.READING),
        ("Loading pt checkpoint shards:  50% Completed | 1/2 [00:01<00:01]", Phase.READING),
        ("Loading safetensors using Runai Model Streamer:  50% Completed | 1/2 [00:01<00:01]", Phase.READING),
        ("Multi-thread loading shards:  50% Completed | 1/2 [00:01<00:01]", Phase.READING),
        (WORKER + "[backbone] Directly load AOT compilation from path /cache/model", Phase.COMPILING),
        (WORKER + "Compile and warming up model for size 8192", Phase.COMPILING),
        ("DeepGEMM warmup:  50%|█████     | 1/2 [00:01<00:01,  1.00s/it]", Phase.COMPILING),
        ("Compiling CuTeDSL kernels:  50%|█████     | 1/2 [00:01<00:01,  1.00s/it]", Phase.COMPILING),
        (WORKER + "Running FlashInfer autotune with 8192 tokens and token buckets (1, 8192).", Phase.COMPILING),
        (WORKER + "Auto set (8.0/31.2) GiB for KV cache on node 0, with 8.0 GiB requested", Phase.ALLOCATING),
        (WORKER + "Initial free memory 23.1 GiB, reserved 4.0 GiB memory for KV Cache as", Phase.ALLOCATING),
        (WORKER + "Rank 0: Torch profiler disabled for CUDA graph capture", Phase.CAPTURING),
        (WORKER + "Graph capturing finished in 6 secs, took 0.61 GiB", Phase.IMPORTING),
        (WORKER + "Resolved architecture: Qwen3ForCausalLM", Phase.IMPORTING),
    ],
)
def test_signs(line: str, phase: Phase) -> None:
    start = Start()
    start.read_all(line)
    assert start.phase is phase
    assert (start.fraction, start.detail) == ((0.5, "1 of 2") if "1/2" in line else (None, ""))


@pytest.mark.parametrize(
    ("phase", "line"),
    [
        (Phase.COMPILING, WORKER + "Starting to load model /models/drafter..."),
        (Phase.WARMING, "Capturing CUDA graphs (decode, FULL): 100%|██████████| 35/35 [00:03<00:00, 11.01it/s]"),
        (None, "INFO [logger.py:40] Received request 1: prompt: 'Starting to load model x...'"),
    ],
)
def test_a_phase_is_not_left_for_an_earlier_one_nor_after_the_start(phase: Phase | None, line: str) -> None:
    start = Start(phase)
    start.read_all(line)
    assert (start.phase, start.seen) == (phase, [])
    assert start.changed_at == 1.0


@pytest.mark.parametrize(
    "line",
    [
        CORE + "No available shared memory broadcast block found in "
        "60 seconds. This typically happens when some processes are hanging or doing some time-consuming work",
        CORE + "Waiting for 1 local, 0 remote core engine proc(s) to connect.",
        "(APIServer pid=1) INFO 11-21 15:28:43 [loggers.py:335] Engine 000: Avg prompt throughput: 4.8 tokens/s, Avg",
        'INFO:      - "GET /health HTTP/1.1" 503 Service Unavailable',
    ],
)
def test_waiting_is_no_progress(line: str) -> None:
    start = Start()
    start.read_all(WORKER + "anything", line, line)
    assert start.changed_at == 1.0


def test_a_bar_that_is_drawn_again_has_not_moved() -> None:
    start = Start()
    bar = "Capturing CUDA graphs:  34%|███▍      | 12/35 [00:{}<00:02,  9.13it/s]"
    start.read_all(bar.format("01"), bar.format("11"), bar.format("21"))
    assert start.changed_at == 1.0
    start.read_all("Capturing CUDA graphs:  37%|███▋      | 13/35 [00:22<00:02,  9.13it/s]")
    assert (start.changed_at, start.fraction) == (4.0, 13 / 35)
