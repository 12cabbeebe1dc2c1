"""A real `vllama serve` in a subprocess, for tests and for whoever records exchanges."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from vllama.engine.process import session_members

ROOT = Path(__file__).parents[1]
ENGINE_HOME = Path(os.environ.get("VLLAMA_TEST_HOME", ROOT / ".cache" / "vllama"))
"""Where the engine's environment for tests is built, once for a checkout."""
SCRIPT = Path(sys.executable).parent / "vllama"


def environment(**more: str) -> dict[str, str]:
    """This process's variables without those that would change what is tested."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OLLAMA_", "VLLAMA_", "HF_")) or name == "VLLAMA_ENGINE_PYTHON"
    }
    # A short time to drain leaves room for a slow machine below the 10 s in which everything has to be gone.
    ours = {
        "VLLAMA_HOME": str(ENGINE_HOME),
        "HF_HOME": str(ENGINE_HOME / "huggingface"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLAMA_DRAIN_TIMEOUT": "2",
    }
    return kept | ours | more


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def _command(process: psutil.Process) -> list[str]:
    return " ".join(process.cmdline()).split()  # a forked one shows its own as one text


class Served:
    """A started gateway. url: where it listens. log: what it wrote so far."""

    def __init__(self, command: Sequence[str | Path], variables: Mapping[str, str], cwd: Path | None = None) -> None:
        self._output = tempfile.NamedTemporaryFile(prefix="vllama-serve-", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(part) for part in command], env=dict(variables), stdout=self._output, stderr=subprocess.STDOUT, cwd=cwd
        )
        self.url = ""

    @property
    def log(self) -> str:
        return Path(self._output.name).read_text()

    def wait_listening(self, seconds: float = 300.0) -> None:
        def listening() -> bool:
            assert self.process.poll() is None, self.log
            return "listening on " in self.log

        wait_until(listening, seconds, f"listening: {self.log}")
        match = re.search(r"listening on (http://\S+)", self.log)
        assert match is not None
        self.url = match[1]

    def engine_processes(self, model: str = "") -> list[int]:
        """Every process that this gateway's engines consist of, or the one of them that serves a model."""
        guards = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                wanted = {"vllama_engine", "serve", model} - {""}
                if wanted <= {*_command(process)} and os.getsid(process.pid) == process.pid:
                    guards.append(process.pid)
        return [pid for guard in guards for pid in session_members(guard)]

    def engine_metric(self, name: str, model: str = "demo:latest") -> float:
        """One of vLLM's metrics, summed over its labels, from the engine that was started for a model."""
        commands = [_command(psutil.Process(pid)) for pid in self.engine_processes()]
        sockets = {
            command[command.index("--uds") + 1] for command in commands if "--uds" in command and model in command
        }
        assert len(sockets) == 1, f"{len(sockets)} engines serve {model}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=sockets.pop()), timeout=10) as client:
            lines = client.get("http://engine/metrics").text.splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{")]
        assert values, f"vLLM has no metric {name}"
        return sum(values)

    def sockets(self) -> int:
        """How many the gateway's process has open, to clients and to engines."""
        return len(psutil.Process(self.process.pid).net_connections("all"))

    def stop(self, number: int = signal.SIGTERM, seconds: float = 15.0) -> int:
        """Signal the gateway and wait for its end. Returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
            self.process.kill()
            self.process.wait(5)
        self._output.close()


@contextlib.contextmanager
def serve(*arguments: str | Path, script: Path = SCRIPT, cwd: Path | None = None, **variables: str) -> Iterator[Served]:
    """`vllama serve ARGUMENTS` on a free port, listening."""
    served = Served([script, "serve", "--port", "0", *arguments], environment(**variables), cwd)
    try:
        served.wait_listening()
        yield served
    except BaseException:
        print(served.log)
        raise
    finally:
        served.close()


def port_is_free(url: str) -> bool:
    try:
        httpx.get(url, timeout=1.0)
    except httpx.ConnectError:
        return True
    return False


def alive(pids: Sequence[int]) -> list[int]:
    """Those of the processes that still run; zombies do not."""
    running = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.append(pid)
    return running
