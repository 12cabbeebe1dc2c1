"""What is said of an end that no rule knows, and of one by a signal."""

import pytest

from tests.each import each
from vllama.engine.diagnosis import Diagnosis, diagnose


@each(
    ("lines", "cause"),
    [
        pytest.param(["ValueError: This has no rule."], "This has no rule", id="plain"),
        pytest.param(["torch.cuda.SomeError: so bad"], "so bad", id="module"),
        pytest.param(
            ["(EngineCore_0 pid=7) ERROR 01-02 03:04:05 [core.py:1] ValueError: so bad"], "so bad", id="process"
        ),
        pytest.param(
            ["\x1b[0;36m(Worker pid=7)\x1b[0;0m ERROR 01-02 03:04:05 [w.py:1] ValueError: so bad"],
            "so bad",
            id="colour",
        ),
        pytest.param(
            ["(VllmWorker rank=1 pid=7) ERROR 01-02 03:04:05 [w.py:1] ValueError: so bad"], "so bad", id="rank"
        ),
        pytest.param(["ValueError: the first", "ValueError: the second"], "the first", id="the first one"),
        pytest.param(
            [
                "Exception: WorkerProc initialization failed due to",
                "WorkerProc failed to start.",
                "ValueError: the root",
            ],
            "the root",
            id="consequence first",
        ),
        pytest.param(
            ["WARNING 01-02 03:04:05 [a.py:1] ImportError: some optional thing", "ValueError: the root"],
            "the root",
            id="only warned of",
        ),
        pytest.param(
            ["    raise RuntimeError('No CUDA GPUs are available')", "ValueError: the root"], "the root", id="source"
        ),
        pytest.param(["KeyError: 'model.embed'"], "KeyError: 'model.embed'", id="key"),
        pytest.param(["KeyError: 'no such parser'"], "no such parser", id="sentence as key"),
        pytest.param(["AssertionError"], "AssertionError", id="without a word"),
        pytest.param(
            ["asyncio.exceptions.CancelledError", "KeyboardInterrupt", "AssertionError"], "AssertionError", id="endings"
        ),
        pytest.param(["NotImplementedError: "], "NotImplementedError", id="empty message"),
        pytest.param(["ValueError: " + "long " * 100], "long " * 80 + " …", id="long"),
        pytest.param(
            ["E ValueError: x y"], 'it exited with status 1, its last words: "E ValueError: x y"', id="in a text"
        ),
        pytest.param(
            ["pydantic_core._pydantic_core.ValidationError: 1 validation error for X", "field", "  is bad [type=x]"],
            "field: is bad",
            id="validation",
        ),
        pytest.param(
            ["pydantic_core._pydantic_core.ValidationError: 1 validation error for X"],
            "1 validation error for X",
            id="validation cut off",
        ),
    ],
)
def test_the_root_exceptions_own_words(lines, cause):
    assert diagnose(lines, 1) == Diagnosis(cause, "")


@each(
    ("lines", "status", "text"),
    [
        ([], None, "it was stopped"),
        ([], 0, "it exited with status 0"),
        ([], 3, "it exited with status 3"),
        ([], 255, "it exited with status 255"),
        (["Loading", "", "  Bad luck "], 134, 'it was killed by SIGABRT, its last words: "Bad luck"'),
        (["INFO 01-02 03:04:05 [a.py:1] Ready"], -2, 'it was killed by SIGINT, its last words: "Ready"'),
        (
            ["ValueError: one it outlived"],
            129,
            'it was killed by SIGHUP, its last words: "ValueError: one it outlived"',
        ),
    ],
)
def test_ends_without_a_cause(lines, status, text):
    assert diagnose(lines, status) == Diagnosis(text, "")


@each(
    ("lines", "status", "start"),
    [
        pytest.param([], -9, "a process of it was killed (SIGKILL)", id="itself"),
        pytest.param([], 137, "a process of it was killed (SIGKILL)", id="told by the guard"),
        pytest.param(["ValueError: one it outlived"], 137, "a process of it was killed (SIGKILL)", id="outlived"),
        pytest.param([], 143, "somebody told a process of it to end (SIGTERM)", id="terminated"),
        pytest.param([], 132, "the processor does not know an instruction", id="illegal instruction"),
        pytest.param(
            ["Fatal Python error: Illegal instruction", "ValueError: so"], 1, "the processor does not know", id="worker"
        ),
        pytest.param([], 135, "a process of it found no room in shared memory", id="bus error"),
        pytest.param([], 139, "a process of it crashed in native code", id="crash"),
    ],
)
def test_signals(lines, status, start):
    assert diagnose(lines, status).cause.startswith(start)


def test_what_was_only_warned_of_is_no_cause():
    limit = "WARNING 01-02 03:04:05 [u.py:1] Found ulimit of 20000. This can cause `[Errno 24] Too many open files`."
    assert diagnose([limit], 3).cause.startswith("it exited with status 3")


def test_a_diagnosis_is_one_line():
    assert str(Diagnosis("so bad", "try again")) == "so bad: try again"
    assert str(Diagnosis("so bad", "")) == "so bad"
