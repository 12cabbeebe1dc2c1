"""The worker that keeps adapters from base requests on a CPU, in vLLM's own environment."""

import subprocess
from pathlib import Path

import pytest

from tests.served import ENGINE_HOME, environment
from vllama.engine.install import ensure_environment, launcher_path
from vllama.settings import load

PROGRAM = Path(__file__).with_name("mixed_batch.py")


@pytest.mark.engine
@pytest.mark.timeout(900)  # builds the environment where it is not there yet
def test_a_mixed_batch() -> None:
    settings = load(home=ENGINE_HOME)
    engine = ensure_environment(
        settings.home, profile=settings.engine_profile, engine_python=settings.engine_python,
        find_links=settings.find_links, report=print,
    )  # fmt: skip
    variables = environment(PYTHONPATH=str(launcher_path()), VLLM_NO_USAGE_STATS="1", VLLM_LOGGING_LEVEL="ERROR")
    done = subprocess.run([engine.python, PROGRAM], env=variables, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-2:] == ["before: base rows changed", "after: base rows kept"], done.stderr
