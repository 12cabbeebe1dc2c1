"""What holds for the whole repository: lint, types, and what no file may contain."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def files() -> Iterator[Path]:
    """The repository's files, without what tools leave behind."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".ci" or not name.startswith((".", "__pycache__", "dist"))]
        yield from (Path(folder, name) for name in names)


def sources() -> list[Path]:
    return [path for folder in ("vllama", "python_engine") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.timeout(300)  # the first run has no cache
@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_tools_are_content(command):
    done = run(sys.executable, "-m", *command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_points_out_of_the_repository():
    outside = ("../" + "shared").encode()
    assert [path for path in files() if outside in path.read_bytes()] == []


def test_files_are_found():
    found = set(files())
    assert {ROOT / "pyproject.toml", ROOT / ".gitignore", ROOT / ".ci/run", Path(__file__)} <= found
    assert not any({".git", ".venv"} & set(path.parent.relative_to(ROOT).parts) for path in found)


def test_sources_are_short():
    assert [path for path in sources() if len(path.read_text().splitlines()) >= 400] == []
