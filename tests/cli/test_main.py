"""The command itself."""

import pytest

COMMANDS = (
    "serve", "run", "list", "ps", "show", "pull", "push", "create", "cp", "rm", "stop", "warm", "bench", "logs",
    "doctor", "merge", "engine",
)  # fmt: skip


def test_help_names_the_commands(run):
    done = run("--help", url="")
    assert done.code == 0
    listed = done.out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed if line[2] != " "] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_explains_itself(run, command):
    done = run(command, "--help", url="")
    assert done.code == 0
    assert f"vllama {command}" in done.out
