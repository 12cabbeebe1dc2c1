"""What is imported when: nobody waits for, or keeps in memory, what he does not use."""

import re
import subprocess
import sys
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.served import Served, environment, wait_until

SERVER = {"httptools", "starlette", "uvicorn", "uvloop"}
OF_OTHERS = {"aiohttp", "huggingface_hub", "prompt_toolkit", "pydantic", "pynvml"}
"""Of other processes, of chats on a terminal, or of none of ours."""

MAIN = """
import sys
from vllama.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules)
"""


def imported_by(*command: str) -> set[str]:
    """The packages and modules that a command has imported when it ends."""
    variables = environment(VLLAMA_HOST="127.0.0.1", VLLAMA_PORT="1")
    done = subprocess.run([sys.executable, "-c", MAIN, *command], capture_output=True, text=True, env=variables)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["serve", "--help"], ["run", "--help"]], ids=" ".join)
def test_who_wants_to_read_help_does_not_wait(command: list[str]) -> None:
    found = imported_by(*command)
    assert "vllama.cli" in found
    clients = {"asyncio", "email", "http.client", "httpx", "importlib.metadata", "msgspec", "psutil", "rich", "ssl"}
    assert sorted((SERVER | OF_OTHERS | clients) & found) == []


def test_who_asks_the_server_brings_no_server() -> None:
    found = imported_by("ps")
    assert "httpx" in found
    servers = SERVER | OF_OTHERS | {"psutil", "vllama.engine.install", "vllama.server"}
    assert sorted(servers & found) == []


SERVE = """
import sys
from pathlib import Path
from vllama import server, settings
from vllama.engine.install import Environment
from vllama.engine.profile import Profile
environment = Environment(Path("/engine/bin/python"), "0.32.0", Profile.CPU, Path(sys.argv[1]))
server.run(settings.load(port=0, standby=False), lambda _settings: environment)
"""


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway that has answered its first client, and logs what it imports."""
    home = tmp_path_factory.mktemp("home")
    flags = home / "flags.json"
    flags.write_text('{"flags": []}')
    variables = environment(VLLAMA_HOME=str(home), HF_HOME=str(home / "huggingface"))
    served = Served([sys.executable, "-X", "importtime", "-c", SERVE, flags], variables, cwd=home)
    try:
        served.wait_listening()
        wait_until(lambda: "models: demo" in served.log, 10, "it tells its models")
        assert httpx.get(served.url, timeout=10, trust_env=False).text == "Ollama is running"
        yield served
    finally:
        served.close()


def test_a_gateway_that_waits_has_imported_no_more_than_it_needs(idle: Served) -> None:
    found = set(re.findall(r"^import time:.*\| +([\w.]+)$", idle.log, re.MULTILINE))
    assert {"starlette", "uvloop", "vllama.server"} <= found
    of_commands = {"httpx", "importlib.metadata", "rich", "vllama.doctor"}
    assert sorted((OF_OTHERS | of_commands) & found) == []


def test_a_gateway_that_waits_takes_little_memory(idle: Served) -> None:
    with httpx.Client(base_url=idle.url, trust_env=False) as http:
        for _ in range(100):
            assert http.get("/api/tags").status_code == 200
    assert psutil.Process(idle.process.pid).memory_info().rss < 60e6
