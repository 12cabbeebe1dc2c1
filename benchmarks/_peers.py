"""The relays that are compared, each started as its users start it, before one synthetic engine."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks._measuring import LateError
from benchmarks._synthetic import MODEL, Plan
from tests.served import ROOT, SCRIPT, serve

_START_S = 60.0
_INSTALL_S = 600.0
_END_S = 5.0
_POLL_S = 0.1
_LITELLM = "litellm[proxy]"


@dataclass(frozen=True)
class Cores:
    """Which processors the relay runs on, and which the engine and the clients do."""

    relay: tuple[int, ...]
    engine: tuple[int, ...]
    clients: tuple[int, ...]

    @classmethod
    def divide(cls) -> "Cores":
        """The relay has one to itself where there are two, so do the others where there are three."""
        found = sorted(os.sched_getaffinity(0))
        return cls((found[-1],), (found[0],), (found[len(found) > 2],))

    def __str__(self) -> str:
        return f"relay on core {self.relay[0]}, engine on core {self.engine[0]}, clients on core {self.clients[0]}"


@dataclass(frozen=True)
class Engine:
    unix: Path
    port: int
    pid: int


@dataclass(frozen=True)
class Way:
    """From a client to the engine.

    address, path: where a client asks. pid: the relay's, 0 where there is none. body: the request for a plan.
    """

    name: str
    address: str
    path: str
    body: Callable[[Plan], dict[str, Any]]
    pid: int = 0

    def asked(self, plan: Plan) -> str:
        """The body of a request, as JSON."""
        return json.dumps(self.body(plan))


def _chat(plan: Plan) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": f"Count: {plan}"}], "stream": True}


def _to_the_engine(plan: Plan) -> dict[str, Any]:
    return _chat(plan) | {"model": MODEL, "stream_options": {"include_usage": True}}


def _message(plan: Plan) -> dict[str, Any]:
    return _chat(plan) | {"max_tokens": 100_000}


_OPENAI = "/v1/chat/completions"
DIALECTS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "/api/chat": _chat, _OPENAI: _chat, "/v1/messages": _message,
}  # fmt: skip


class Relays:
    """Starts them, and ends them all when it is closed."""

    def __init__(self, stack: ExitStack, cores: Cores) -> None:
        self._stack = stack
        self._cores = cores
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vl-", dir="/tmp")))
        unix, port = self._folder / "engine.sock", _free_port()
        pid = self._start("engine", _module("_synthetic", "--unix", unix, "--port", port), cores.engine)
        self.engine = Engine(unix, port, pid)
        self.direct = Way("direct", f"127.0.0.1:{self.engine.port}", _OPENAI, _to_the_engine)
        self._await(self.direct)

    def floor(self) -> list[Way]:
        return [self._small("floor", "_floor")]

    def reference(self) -> list[Way]:
        return [self._small("httpx reference", "_reference")]

    def gateway(self, script: Path = SCRIPT, name: str = "vllama") -> list[Way]:
        """`vllama serve`, in all its dialects."""
        home = str(self._folder / name)
        url = f"unix:{self.engine.unix}"
        served = self._stack.enter_context(serve("--engine-url", url, script=script, VLLAMA_HOME=home, HF_HOME=home))
        pid = served.process.pid
        _pin(pid, self._cores.relay)
        address = served.url.removeprefix("http://")
        ways = [Way(f"{name} {path}", address, path, body, pid) for path, body in DIALECTS.items()]
        for way in ways:
            self._await(way)
        return ways

    def before(self, commit: str) -> list[Way]:
        """The gateway of another commit, with what it depended on."""
        return self.gateway(self._stack.enter_context(checked_out(commit)), commit)

    def litellm(self) -> list[Way]:
        """Its proxy with what makes it slow left out: no database, no keys, no callbacks, no retries, no log."""
        port, config = _free_port(), self._folder / "litellm.json"
        config.write_text(json.dumps(_litellm_config(self.engine)))
        command = ["uv", "run", "--no-project", "--isolated", "--with", _LITELLM, "litellm", "--config", config]
        command += ["--host", "127.0.0.1", "--port", port, "--num_workers", 1]
        silent = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        silent |= {"NO_DOCS": "True", "NO_REDOC": "True", "DISABLE_ADMIN_UI": "True", "DO_NOT_TRACK": "1"}
        pid = self._start("LiteLLM", command, self._cores.relay, **silent)
        way = Way("LiteLLM", f"127.0.0.1:{port}", _OPENAI, _chat, pid)
        self._await(way, _INSTALL_S)
        return [way]

    def _small(self, name: str, module: str) -> Way:
        port = _free_port()
        command = _module(module, "--engine", self.engine.unix, "--port", port)
        way = Way(name, f"127.0.0.1:{port}", "/api/chat", _chat, self._start(name, command, self._cores.relay))
        self._await(way)
        return way

    def _start(self, name: str, command: Sequence[object], cores: tuple[int, ...], **variables: str) -> int:
        log = self._stack.enter_context(self._log(name).open("w"))
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=os.environ | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._stack.callback(_end, process)
        _pin(process.pid, cores)
        return process.pid

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _await(self, way: Way, seconds: float = _START_S) -> None:
        """Raises LateError with what it says instead of a token."""
        deadline, said = time.monotonic() + seconds, "nothing"
        with httpx.Client(base_url=f"http://{way.address}", verify=False, timeout=seconds) as http:  # noqa: S501
            while time.monotonic() < deadline and not (way.pid and _has_ended(way.pid)):
                with contextlib.suppress(httpx.TransportError):
                    reply = http.post(way.path, json=way.body(Plan(1)))
                    if "00000@" in reply.text:
                        return
                    said = f"{reply.status_code}: {reply.text[:500]}"
                time.sleep(_POLL_S)
        log = self._log(way.name if way.pid else "engine")
        raise LateError(f"{way.name} says {said}\n{log.read_text()[-2000:] if log.exists() else ''}")


def _litellm_config(engine: Engine) -> dict[str, Any]:
    parameters = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{engine.port}/v1", "api_key": "none"}
    return {
        "model_list": [{"model_name": "demo", "litellm_params": parameters}],
        "litellm_settings": {
            "num_retries": 0,
            "request_timeout": 600,
            "callbacks": [],
            "disable_streaming_logging": True,
        },
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The `vllama` of a commit, installed beside its sources."""
    with tempfile.TemporaryDirectory(prefix="vl-before-") as folder:
        place = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", place, commit], cwd=ROOT, check=True, capture_output=True)
        try:
            variables = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
            subprocess.run(["uv", "sync", "--quiet", "--frozen", "--no-dev"], cwd=place, env=variables, check=True)
            yield place / ".venv" / "bin" / "vllama"
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", place], cwd=ROOT, check=True)


def _module(name: str, *arguments: object) -> list[object]:
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _pin(pid: int, cores: tuple[int, ...]) -> None:
    """A process as it is; what it starts later inherits it."""
    for thread in _threads(pid):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cores)


@contextlib.contextmanager
def preferred(*pids: int) -> Iterator[None]:
    """Whatever else wants to run has to wait for these processes."""
    threads = [thread for pid in pids if pid for thread in _threads(pid)]
    for thread in threads:
        os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))
    yield
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _threads(pid: int) -> list[int]:
    """Of a process and all below it."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return [thread.id for process in processes for thread in process.threads()]


def _has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started: what drains its streams is not waited for for long."""
    with contextlib.suppress(psutil.NoSuchProcess):
        running = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for each in running:
            each.terminate()
        _, left = psutil.wait_procs(running, timeout=_END_S)
        for each in left:
            each.kill()
    process.wait(_END_S)
