"""Where the clients connect to, and the order of their tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.npm import Node, install
from tests.clients.talk import Llm
from tests.served import Served, environment

LAST = Path(__file__).with_name("test_embeddings.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Embeddings come last in the whole run: until then one engine is enough, and `ps` shows no other."""
    items.sort(key=lambda item: item.path == LAST)


@pytest.fixture(scope="session")
def url(demo: Served) -> str:
    return demo.url


@pytest.fixture(scope="session")
def node(url: str) -> Node:
    install()
    return Node(url)


@pytest.fixture
def llm(url: str, tmp_path: Path) -> Llm:
    """`llm(...)`: what the command prints. It knows of the gateway by Ollama's own variable."""
    variables = environment(OLLAMA_HOST=url, LLM_USER_PATH=str(tmp_path))

    def run(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("llm")), *arguments]
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
