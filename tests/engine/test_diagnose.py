"""What is made of an engine's last lines. The logs are vLLM 0.32's, shortened."""

from pathlib import Path

import pytest

from vllama.engine.diagnose import explain

LOGS = Path(__file__).with_name("logs")
CAUSES = {
    "address_in_use": "[Errno 98] Address already in use",
    "context_too_long": "User-specified max_model_len (1000000) is greater than the derived max_model_len "
    "(max_position_embeddings=4096.0 or model_max_length=None in model's config.json). To allow overriding",
    "corrupt_header": "Unterminated string starting at: line 1 column 2973 (char 2972)",
    "indivisible_heads": "Total number of attention heads (4) must be divisible by tensor parallel size (3)",
    "invalid_choice": "argument --dtype: invalid choice: 'float15' (choose from 'auto', 'bfloat16',",
    "no_weights": "Cannot find any model weights with `/models/missing`",
    "unknown_architecture": "Model architectures ['FooForCausalLM'] are not supported for now. Supported",
    "unknown_flag": "unrecognized arguments: --max-modl-len",
    "unknown_model_type": "The checkpoint you are trying to load has model type `foozle` but Transformers does not "
    "recognize this architecture. This could be because",
    "unknown_parser": "invalid tool call parser: nosuch (chose from { apertus,",
    "wrong_quantization": "Cannot find the config file for awq",
    "wrong_shapes": "start (0) + length (320) exceeds dimension size (256)",
    "wrong_type": "hf_overrides.dict[str,any]: Input should be a valid dictionary",
}


@pytest.mark.parametrize("name", CAUSES)
def test_causes(name):
    cause = explain((LOGS / f"{name}.log").read_text().splitlines(), 1)
    assert cause.startswith(CAUSES[name])
    assert "\n" not in cause
    assert len(cause) <= 402
    assert "input_value" not in cause


def test_every_log_is_tested():
    assert {path.stem for path in LOGS.iterdir()} == set(CAUSES)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        pytest.param(
            ["ValueError: No available memory for the cache blocks."],
            "No available memory for the cache blocks",
            id="plain",
        ),
        pytest.param(["torch.OutOfMemoryError: CUDA out of memory."], "CUDA out of memory", id="module"),
        pytest.param(
            ["(EngineCore_0 pid=7) ERROR 01-02 03:04:05 [core.py:1] ValueError: so bad"], "so bad", id="process"
        ),
        pytest.param(
            ["\x1b[0;36m(Worker pid=7)\x1b[0;0m ERROR 01-02 03:04:05 [w.py:1] ValueError: so bad"],
            "so bad",
            id="colour",
        ),
        pytest.param(["ValueError: the first", "ValueError: the second"], "the first", id="the first one"),
        pytest.param(
            ["Exception: WorkerProc initialization failed due to", "ValueError: the root"],
            "the root",
            id="consequence first",
        ),
        pytest.param(
            ["WARNING 01-02 03:04:05 [a.py:1] ImportError: some optional thing", "ValueError: the root"],
            "the root",
            id="only warned of",
        ),
        pytest.param(["KeyError: 'model.embed'"], "KeyError: 'model.embed'", id="key"),
        pytest.param(["KeyError: 'no such parser'"], "no such parser", id="sentence as key"),
        pytest.param(["AssertionError"], "AssertionError", id="without a word"),
        pytest.param(
            ["asyncio.exceptions.CancelledError", "KeyboardInterrupt", "AssertionError"], "AssertionError", id="endings"
        ),
        pytest.param(["NotImplementedError: "], "NotImplementedError", id="empty message"),
        pytest.param(
            ["E ValueError: x y"], 'it exited with status 1, its last words: "E ValueError: x y"', id="in a text"
        ),
        pytest.param(
            ["ImportError: This modeling file requires the following packages: einops."],
            "This modeling file requires the following packages: einops",
            id="a model's own packages",
        ),
    ],
)
def test_lines(lines, cause):
    assert explain(lines, 1) == cause


@pytest.mark.parametrize(
    "line",
    [
        "ModuleNotFoundError: No module named 'torch'",
        "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory",
        "ImportError: cannot import name 'LLM' from 'vllm'",
    ],
)
def test_damaged_environments(line):
    message = line.partition(": ")[2]
    assert explain([line], 1) == f"its environment is damaged ({message}): run `vllama engine install --reinstall`"


@pytest.mark.parametrize(
    ("lines", "status", "text"),
    [
        ([], None, "it was stopped"),
        ([], 0, "it exited with status 0"),
        ([], 3, "it exited with status 3"),
        ([], -9, "it was killed by SIGKILL"),
        ([], 137, "it was killed by SIGKILL"),
        ([], 139, "it was killed by SIGSEGV"),
        ([], 255, "it exited with status 255"),
        (["Loading", "", "  Bad luck "], 132, 'it was killed by SIGILL, its last words: "Bad luck"'),
        (["INFO 01-02 03:04:05 [a.py:1] Ready"], -15, 'it was killed by SIGTERM, its last words: "Ready"'),
        (["EngineDeadError: EngineCore encountered an issue. See"], 137,
         'it was killed by SIGKILL, its last words: "EngineDeadError: EngineCore encountered an issue. See"'),
    ],
)  # fmt: skip
def test_ends_without_a_cause(lines, status, text):
    assert explain(lines, status) == text
