"""What does our own part cost before any engine starts: the command line, a gateway's start, and its memory?

    uv run python benchmarks/gateway.py [--rounds 10] [--requests 1000] [--before COMMIT] [--goal] [--json FILE]

In turn, round after round: Python that does nothing, `vllama --help`, and `vllama serve` with the demo models and
without a standby until it has answered a client; then its resident memory, and that after so many requests. Beside the
seconds on the clock stand those of the CPU, which others on the machine do not lengthen as much; the best round of each
counts. With --before the same of another commit, checked out and installed aside. With --goal it exits with status 1
where one of the goals is missed.
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measuring import LateError, parser, table, write
from tests.served import ROOT, environment

_START_S = 60.0
_POLL_S = 0.002
_ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
NOTHING, HELP, LISTENING, IDLE, USED = "python -c pass", "vllama --help", "listening", "idle", "after requests"
GOALS = {HELP: 0.15, LISTENING: 0.5, IDLE: 60e6, USED: 60e6}
"""Seconds on the clock of a quiet machine, and bytes."""

Found = dict[str, list[float]]
"""By what was measured. What takes time is there twice: as it is, and with `CPU` for seconds of the CPU."""


class Build(NamedTuple):
    """An installed vLLama. scripts: the folder of its commands."""

    name: str
    scripts: Path


def measure(build: Build, variables: Mapping[str, str], requests: int, found: Found) -> None:
    for what, command in (
        (NOTHING, [build.scripts / "python", "-c", "pass"]),
        (HELP, [build.scripts / "vllama", "--help"]),
    ):
        took, cpu = timed([str(part) for part in command], variables)
        found[what].append(took)
        found[f"{what} CPU"].append(cpu)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [str(build.scripts / "vllama"), "serve", "--no-standby", "--port", str(port)]
    began = time.monotonic()
    with started(command, variables) as process:
        wait_answered(port)
        found[LISTENING].append(time.monotonic() - began)
        times = process.cpu_times()
        found[f"{LISTENING} CPU"].append(times.user + times.system)
        found[IDLE].append(process.memory_info().rss)
        ask(port, requests)
        found[USED].append(process.memory_info().rss)


def timed(command: list[str], variables: Mapping[str, str]) -> tuple[float, float]:
    """Seconds that a command takes, and of the CPU."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=dict(variables), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    took = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return took, used.ru_utime + used.ru_stime


@contextlib.contextmanager
def started(command: list[str], variables: Mapping[str, str]) -> Iterator[psutil.Popen]:
    with tempfile.TemporaryFile() as log:
        process = psutil.Popen(command, env=dict(variables), stdout=log, stderr=log)
        try:
            yield process
        except LateError as error:
            log.seek(0)
            raise RuntimeError(f"{error}: {log.read().decode()}") from None
        finally:
            process.terminate()
            process.wait(15)


def wait_answered(port: int) -> None:
    """Until a client that comes as early as it can has its answer. Raises LateError."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port), _START_S) as client,
        ):
            client.sendall(_ASK)
            if b"Ollama is running" in b"".join(iter(lambda: client.recv(4096), b"")):
                return
        time.sleep(_POLL_S)
    raise LateError(f"no answer within {_START_S:.0f} s")


def ask(port: int, count: int) -> None:
    """What clients ask before they chat."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        for turn in range(count):
            reply = (
                http.get("/api/tags"),
                http.post("/api/show", json={"model": "demo"}),
                http.get("/api/ps"),
                http.get("/v1/models"),
            )[turn % 4]
            reply.raise_for_status()


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Build]:
    """Another commit, installed as this one is."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, check=True, capture_output=True)
        try:
            subprocess.run(["uv", "sync", "--frozen", "--quiet"], cwd=tree, check=True, env=_without_our_environment())
            yield Build(commit, tree / ".venv" / "bin")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def _without_our_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}


def _variables() -> dict[str, str]:
    """As for whoever has installed it: what was compiled is kept."""
    return {name: value for name, value in environment().items() if name != "PYTHONDONTWRITEBYTECODE"}


def report(found: Mapping[str, Found], arguments: argparse.Namespace) -> int:
    rows = [
        [what, name, shown(what, values[what]), shown(what, values.get(f"{what} CPU", [])), goal(what)]
        for what in (NOTHING, HELP, LISTENING, IDLE, USED)
        for name, values in found.items()
    ]
    print(table(["What", "Build", "Measured", "of the CPU", "Goal"], rows))
    write(arguments.json, {"requests": arguments.requests, "goals": GOALS, "builds": found})
    missed = [what for what, most in GOALS.items() if min(found["now"][what]) > most]
    return 1 if arguments.goal and missed else 0


def shown(what: str, values: list[float]) -> str:
    """The best round, and the median."""
    if not values:
        return ""
    unit, scale = ("MB", 1e-6) if what in (IDLE, USED) else ("ms", 1e3)
    return f"{min(values) * scale:.0f} {unit} (median {statistics.median(values) * scale:.0f})"


def goal(what: str) -> str:
    return shown(what, [GOALS[what]]).partition(" (")[0] if what in GOALS else ""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--requests", type=int, default=1000)
    options.add_argument("--before", metavar="COMMIT")
    options.add_argument("--goal", action="store_true", help="exit with status 1 where a goal is missed")
    arguments = options.parse_args()
    variables = _variables()
    found: dict[str, Found] = {}
    with contextlib.ExitStack() as stack:
        builds = [Build("now", Path(sys.executable).parent)]
        if arguments.before:
            builds.insert(0, stack.enter_context(checked_out(arguments.before)))
        for build in builds:
            found[build.name] = defaultdict(list)
            measure(build, variables, 0, defaultdict(list))  # what is only done once is done
        for turn in range(arguments.rounds):
            for build in builds:
                measure(build, variables, arguments.requests, found[build.name])
            print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    return report(found, arguments)


if __name__ == "__main__":
    sys.exit(main())
