"""Running uv: a clean environment for it, what its lines say about progress, and what its failures mean."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from vllama.errors import InstallError

# Where packages come from and how they are fetched is the user's business; every other UV_ variable (UV_PYTHON,
# UV_TORCH_BACKEND, UV_OVERRIDE, UV_EXCLUDE_NEWER ...) was meant for other projects.
_KEPT_UV_VARIABLES = re.compile(
    r"UV_(FIND_LINKS|(\w+_)?INDEX(_\w+)?|(NO_)?CACHE(_DIR)?|HTTP_\w+|REQUEST_TIMEOUT|OFFLINE|CONCURRENT_\w+|LINK_MODE"
    r"|INSECURE_HOST|NATIVE_TLS|SYSTEM_CERTS|KEYRING_PROVIDER|CREDENTIALS_DIR|CONFIG_FILE|NO_CONFIG)"
)
_FOREIGN_VARIABLES = re.compile(r"PYTHON\w*|VIRTUAL_ENV|CONDA_\w+|__PYVENV_LAUNCHER__|UV|UV_\w+")

# Runs a command that the kernel kills with this process, however this process dies (1 is PR_SET_PDEATHSIG). Its
# first argument is this process, which may have died already.
_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class InstallStep:
    """How far an installation is.

    what: what is happening. fraction: of this step, between 0 and 1, or None where nobody knows. detail: on what.
    warning: nothing is happening; `what` is something to tell the user.
    """

    what: str
    fraction: float | None = None
    detail: str = ""
    warning: bool = False


class UvError(Exception):
    """uv ended with an error. output: all that it printed."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


def find_uv() -> str:
    """The binary of the package `uv`, or else the one on the PATH."""
    try:
        import uv

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        pass
    if found := shutil.which("uv"):
        return found
    raise InstallError("uv, which builds the engine's environment, is missing", "run `pip install uv`")


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what would lead uv or the engine's Python to other environments than the one being built."""
    return {
        name: value
        for name, value in environ.items()
        if _KEPT_UV_VARIABLES.fullmatch(name) or not _FOREIGN_VARIABLES.fullmatch(name)
    }


@contextmanager
def bound_process(
    command: Sequence[str], environ: Mapping[str, str], stderr: int | IO[str]
) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own that lives no longer than the block, or than this process.

    Its standard output is piped. Ctrl-C in the terminal does not reach it: the block is left, and it is killed.
    It starts in the root folder, where uv finds no settings of a project and Python no modules.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WITH_PARENT, str(os.getpid()), *command],
        cwd=os.sep, env=dict(environ), process_group=0,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace",
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def run_uv(
    arguments: Sequence[str], *, environ: Mapping[str, str], log: IO[str], on_line: Callable[[str], None]
) -> None:
    """Run uv, copy its output to `log`, and raise `UvError` where it fails."""
    command = [find_uv(), *arguments, "--color", "never"]
    log.write(f"$ {_without_passwords(' '.join(command))}\n")
    lines = []
    with bound_process(command, environ, subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            line = _without_passwords(line)
            log.write(line)
            log.flush()
            lines.append(line)
            on_line(line)
        status = process.wait()
    if status < 0:
        lines.append(f"error: uv was killed by {signal.Signals(-status).name}\n")
    if status:
        raise UvError("".join(lines))


def _without_passwords(command: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//***@", command)


class UvProgress:
    """Turns the lines that uv prints on a pipe into steps."""

    def __init__(self, report: Callable[[InstallStep], None]) -> None:
        self._report = report
        self._sizes: dict[str, float] = {}
        self._done = 0.0

    def __call__(self, line: str) -> None:
        if found := re.match(r"Resolved (\d+ packages?)", line):
            self._report(InstallStep("preparing packages", None, found[1]))
        elif found := re.match(r"Downloading (\S+) \(([\d.]+)([KMG]?i?B)\)", line):
            self._sizes[found[1]] = float(found[2]) * _UNITS.get(found[3][0], 1)
            self._report_download(f"{found[1]} ({found[2]} {found[3]})")
        elif found := re.match(r"\s+Downloaded (\S+)", line):
            self._done += self._sizes.get(found[1], 0)
            self._report_download(f"{found[1]} done")
        elif found := re.match(r"\s*Building (\S+)", line):
            self._report(InstallStep("building", None, found[1]))
        elif found := re.match(r"Prepared (\d+ packages?)", line):
            self._report(InstallStep("installing packages", None, found[1]))
        elif found := re.match(r"Installed (\d+ packages?)", line):
            self._report(InstallStep("installed packages", None, found[1]))

    def _report_download(self, detail: str) -> None:
        total = sum(self._sizes.values())
        self._report(InstallStep("downloading", self._done / total if total else None, detail))


_UNITS = {"K": 1024.0, "M": 1024.0**2, "G": 1024.0**3}
