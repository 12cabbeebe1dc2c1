"""Ollama's client from npm, installed as package-lock.json says, and the programs in node/ that use it."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.served import ROOT

HERE = Path(__file__).parent
PROJECT = ROOT / ".cache" / "clients-npm"
"""Where the packages are installed for this checkout."""


@dataclass(frozen=True)
class Node:
    """Runs node/NAME.mjs against the gateway at `url`."""

    url: str

    def start(self, name: str) -> subprocess.Popen[str]:
        # From stdin a program finds the packages of its working folder; from a file, only those of the file's.
        with (HERE / "node" / f"{name}.mjs").open() as program:
            return subprocess.Popen(
                [_found("node"), "--input-type=module", "-", self.url],
                cwd=PROJECT, stdin=program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip

    def run(self, name: str) -> Any:
        """The JSON that the program prints. Fails if it complains of anything."""
        with self.start(name) as process:
            output, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
        assert not complaints
        return json.loads(output)


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
