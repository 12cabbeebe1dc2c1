"""Ollama's client from npm, installed as package-lock.json says, and the programs in node/ that use it."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.served import ROOT

HERE = Path(__file__).parent
PROJECT = ROOT / ".cache" / "clients-npm"
"""Where the packages are installed for this checkout."""


@dataclass(frozen=True)
class Node:
    """Runs node/NAME.mjs against the gateway at `url`."""

    url: str

    @property
    def command(self) -> list[str]:
        # From stdin a program finds the packages of its working folder; from a file, only those of the file's.
        return [_found("node"), "--input-type=module", "-", self.url]

    def run(self, name: str) -> Any:
        """The JSON that the program prints. Fails if it complains of anything."""
        with _program(name) as program:
            done = subprocess.run(
                self.command, cwd=PROJECT, stdin=program, capture_output=True, text=True, check=False, timeout=60
            )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[IO[str]]:
        """What the program prints, while it runs."""
        with (
            _program(name) as program,
            subprocess.Popen(self.command, cwd=PROJECT, stdin=program, stdout=subprocess.PIPE, text=True) as process,
        ):
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                process.kill()


def _program(name: str) -> IO[str]:
    return (HERE / "node" / f"{name}.mjs").open()


def install() -> None:
    PROJECT.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, PROJECT)
    command = [_found("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def _found(program: str) -> str:
    path = shutil.which(program)
    assert path, f"{program} is missing: install Node.js 20 or newer to test Ollama's client for JavaScript"
    return path
