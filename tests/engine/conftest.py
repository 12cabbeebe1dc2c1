"""A vLLM that the real launcher starts, and that does what a test tells it: see `fake_vllm`."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.served import alive
from vllama.engine import engine as engine_module

ROOT = Path(__file__).parents[2]
LAUNCHER = [sys.executable, "-S", "-m", "vllama_engine"]

_FAKES = {
    "vllm/entrypoints/launchers/api_server/entry.py": "from tests.engine.fake_vllm import main as main\n",
    "vllm/platforms.py": "from tests.engine.fake_vllm import current_platform as current_platform\n",
    "vllm/v1/engine/async_llm.py": "from tests.engine.fake_vllm import be_imported\n\nbe_imported()\n",
    "vllm/utils/system_utils.py": "def get_mp_context():\n    return 'spawn'\n",
    "vllm/v1/engine/core.py": "from vllm.utils.system_utils import get_mp_context as get_mp_context\n",
    "vllm/model_executor/models/registry.py": "def _run_in_subprocess(function):\n    return 'started anew'\n",
    "torch.py": "from tests.engine.fake_vllm import cuda as cuda, set_num_threads as set_num_threads\n",
}


@dataclass
class FakeVllm:
    """command: the launcher's, without its --guard-fd. socket: where the server listens."""

    socket: Path
    path: str

    @property
    def command(self) -> list[str]:
        return [*LAUNCHER, "serve", "--", "--uds", str(self.socket)]

    def variables(self, **plan: Any) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": self.path, "FAKE": json.dumps(plan), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def fake_vllm_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("fake")
    for name, text in _FAKES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return os.pathsep.join(map(str, (folder, ROOT / "python_engine", ROOT)))


@pytest.fixture
def fake_vllm(fake_vllm_path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    monkeypatch.setattr(engine_module, "_POLL_S", 0.02)  # it starts in a tenth of a second
    with tempfile.TemporaryDirectory(prefix="vllama-") as folder:  # a test's own folder has too long a path
        yield FakeVllm(Path(folder, "s"), fake_vllm_path)


async def until(condition: Callable[[], Any]) -> Any:
    """Wait until the condition is true, and return what it gave."""
    async with asyncio.timeout(20):
        while not (value := condition()):
            await asyncio.sleep(0.005)
    return value


async def until_gone(pids: Sequence[int]) -> None:
    await until(lambda: not alive(pids))


def child_pid(lines: Sequence[str]) -> int | None:
    """That of the process which the fake has started, once it said so."""
    return next((int(line.split()[1]) for line in lines if line.startswith("child ")), None)
