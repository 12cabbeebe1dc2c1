"""The command itself."""

import subprocess
import sys

import pytest

COMMANDS = (
    "serve", "run", "list", "ps", "show", "pull", "push", "create", "cp", "rm", "stop", "warm", "logs", "doctor",
    "merge", "engine",
)  # fmt: skip


def test_help_names_the_commands(run):
    done = run("--help", url="")
    assert done.code == 0
    names = [line.split()[1] for line in done.out.splitlines() if line.startswith("│ ") and line[2] not in " -"]
    assert names == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_explains_itself(run, command):
    done = run(command, "--help", url="")
    assert done.code == 0
    assert f"vllama {command}" in done.out


def test_help_waits_for_no_client():
    heavy = {"httpx", "prompt_toolkit", "pydantic", "starlette"}
    code = "import sys, vllama.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & {name.partition(".")[0] for name in done.stdout.split()}
