"""Every command in the README, run as it stands there: only host names and ports are put in."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.hub_server import Hub
from tests.served import ROOT, Served, environment
from vllama import demo
from vllama.demo.dialogues import by_name

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
INSTALL, TESTS = COMMANDS[0], COMMANDS[-1]
SERVE = [command for command in COMMANDS if command.startswith(".venv/bin/vllama serve")]
CLI = [command for command in COMMANDS if ".venv/bin/vllama " in command and command not in (INSTALL, *SERVE)]
PULL, RUN_PULLED = CLI[-2:]
CURL = [command for command in COMMANDS if command.startswith("curl ")]
PIP = [command for command in COMMANDS if command.startswith(".venv/bin/pip install")]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]
EXPECTED = {
    "Why is the sky blue?": by_name("sky").answer,
    "What can you do?": by_name("what-can-you-do").answer,
    "Hello!": by_name("hello").answer,
    "Give me a city": by_name("json-city").answer,
    "Thank you!": by_name("thanks").answer,
}
PRINTED = {
    "run demo": by_name("haiku").answer,
    "list": "demo:latest",
    "ps": "100% CPU",
    "create pirate": "",
    "run pirate": by_name("pirate-hello").answer,
    "show pirate": "You are a pirate.",
    "rm pirate": "deleted 'pirate'",
    "doctor": "no problems",
    "logs demo": "(APIServer pid=",
}


def test_no_command_is_left_out() -> None:
    assert sorted([INSTALL, TESTS, *SERVE, *CLI, *CURL, *PIP]) == sorted(COMMANDS)
    assert (len(SERVE), len(CLI), len(CURL), len(PIP), len(PYTHON)) == (5, 11, 5, 1, 1)


def test_the_second_line_is_what_ci_runs() -> None:
    assert TESTS.endswith("uv run pytest")
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "uv run pytest"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's files, as they would be in a clone."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@contextmanager
def run(command: str, clone: Path, **variables: str) -> Iterator[Served]:
    """A command that serves, on a port of its own."""
    # exec: the signals that end the test are the gateway's, not the shell's.
    command = command.replace(".venv/bin/vllama serve", "exec .venv/bin/vllama serve")
    served = Served(["bash", "-c", command], environment(OLLAMA_HOST="127.0.0.1:0", **variables), clone)
    try:
        served.wait_listening()
        yield served
    finally:
        served.close()


@pytest.fixture(scope="module")
def started(clone: Path) -> Iterator[Served]:
    """The README's first line."""
    with run(INSTALL, clone) as served:
        yield served


@pytest.mark.parametrize("command", CURL)
def test_curl(started: Served, clone: Path, command: str) -> None:
    shown = command.replace("http://localhost:11434", started.url).replace("curl ", "curl --silent --show-error ", 1)
    done = subprocess.run(["bash", "-c", shown], cwd=clone, capture_output=True, text=True, timeout=200, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert not any("error" in line for line in lines)
    texts = [line.get("response", "") or line.get("message", {}).get("content", "") for line in lines]
    shown_text = "".join(texts) or done.stdout
    assert next(answer for part, answer in EXPECTED.items() if part in command) in shown_text


def vllama(command: str, served: Served, clone: Path) -> str:
    """What one of our commands prints."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=clone,
        env=environment(OLLAMA_HOST=served.url),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line(started: Served, clone: Path) -> None:
    shown = [vllama(command, started, clone) for command in CLI[:-2]]
    for command, words, text in zip(CLI, PRINTED, shown, strict=False):
        assert f"vllama {words}" in command
        assert PRINTED[words] in text
    assert len(shown) == len(PRINTED)


def test_the_ollama_package(started: Served, clone: Path) -> None:
    subprocess.run(["bash", "-c", PIP[0]], cwd=clone, capture_output=True, timeout=200, check=True)
    done = subprocess.run(
        [clone / ".venv" / "bin" / "python", "-c", PYTHON[0]],
        env=environment(OLLAMA_HOST=started.url), capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip
    assert done.stdout == by_name("haiku").answer


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub whose models are all the demo model."""
    with Hub() as server:
        files = {file.name: file.read_bytes() for file in demo.CHAT.iterdir() if file.is_file()}
        server.repos = {"Qwen/Qwen3-4B": files, "Qwen/Qwen3-0.6B": files}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_hub_model_is_downloaded_and_served(started: Served, clone: Path, hub: Hub, tmp_path: Path) -> None:
    with run(SERVE[0], clone, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path)) as served:
        vllama(PULL, served, clone)
        try:
            assert by_name("hello").answer in vllama(RUN_PULLED, served, clone)
            shown = httpx.post(f"{served.url}/api/show", json={"model": "qwen3:4b"}).json()
            assert shown["model_info"]["qwen3.context_length"] == 4096
        finally:
            vllama(".venv/bin/vllama rm qwen3:4b", served, clone)


def test_several_models(started: Served, clone: Path, hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(demo.CHAT, clone / "my-model")
    with run(SERVE[2], clone, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path)) as served:
        assert names(served) == {"small:latest", "my-model:latest"}


def test_an_adapter(started: Served, clone: Path) -> None:
    shutil.copytree(demo.ADAPTER, clone / "my-adapter")
    with run(SERVE[3], clone) as served:
        assert names(served) == {"demo:latest", "parrot:latest"}


def test_vllms_own_flags(started: Served, clone: Path, hub: Hub, tmp_path: Path) -> None:
    with run(SERVE[1], clone, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path)) as served:
        assert names(served) == {"Qwen/Qwen3-4B:latest"}


def test_a_server_that_runs_already(started: Served, clone: Path) -> None:
    with run(SERVE[4].replace("http://gpu-server:8000", started.url), clone) as served:
        assert names(served) == {"demo:latest"}


def names(served: Served) -> set[str]:
    return {model["name"] for model in httpx.get(f"{served.url}/api/tags").json()["models"]}
