"""vLLM's server as its supervision sees it: a process that prints, listens, answers and ends, well or badly.

The real launcher runs it in place of vLLM. What it does stands as JSON in `$FAKE`:

out: text that it prints first. print_every, prints: so many seconds between so many lines, before it goes on.
child: `group` or `session`, a process of its own that it starts in one, and whose pid it prints.
ignore: it ignores SIGTERM; else it prints "terminated" and exits with 7.
forked: what a forked one does first: `hang`, or end with that text.
end: `exit N`, `raise TEXT`, `say TEXT` (exits with a text), `kill N` or `hang`, in place of listening.
warm_up: what the first prompt does: `404` (but it embeds), `500`, `hang`, or `kill N`, after an error of its own.
context: in tokens, 0: it does not say.
adapters: what loading an adapter of that name answers, [status, message]; else it is loaded, unless it is already.
says: `context`, how its processes are started, `class`, how a model's class is looked at, or `threads`, how a worker's
are bound; it prints that first.
health: what /health answers, `hang`, or `spin` (it hangs and uses CPU time as long as that is the plan).
asleep: what /sleep answers, `200` (it sleeps), `500`, `hang`, or `kill N`. awake: the same of /wake_up, or `stay`.

What is posted to /plan changes the plan of one that runs. What importing it does stands in `$IMPORT`: `hang`, `die`,
`cuda` (it initializes CUDA) or `thread` (it starts one).
"""

import contextlib
import json
import os
import signal
import socketserver
import sys
import threading
import time
from typing import Any, ClassVar

PLAN: dict[str, Any] = {}


def main() -> None:
    PLAN.update(json.loads(os.environ.get("FAKE", "{}")))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if PLAN.get("ignore") else terminate)
    if child := PLAN.get("child"):
        import subprocess

        apart: dict[str, Any] = {"start_new_session": True} if child == "session" else {"process_group": 0}
        print("child", subprocess.Popen(["sleep", "1000"], **apart).pid, flush=True)
    print(PLAN.get("out", "hello"), flush=True)
    if "vllama_engine.standby" in sys.modules and (trouble := PLAN.get("forked")):
        finish("hang" if trouble == "hang" else f"say {trouble}")
    if subject := PLAN.get("says"):
        print("said", say(subject), flush=True)
    for number in range(PLAN.get("prints", 0)):
        time.sleep(PLAN["print_every"])
        print(f"line {number}", flush=True)
    if end := PLAN.get("end"):
        finish(end)
    with contextlib.suppress(IndexError):
        Server(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()


class current_platform:  # noqa: N801 - vLLM's name for it
    @staticmethod
    def is_cpu() -> bool:
        return True


class cuda:  # noqa: N801 - torch's
    @staticmethod
    def is_initialized() -> bool:
        return os.environ.get("IMPORT") == "cuda"


def be_imported() -> None:
    match os.environ.get("IMPORT"):
        case "hang":
            signal.pause()
        case "die":
            print("no module named vllm", flush=True)
            os._exit(3)
        case "thread":
            threading.Thread(target=signal.pause, name="helper", daemon=True).start()


THREADS: list[int] = []


def set_num_threads(count: int) -> None:
    THREADS.append(count)


def say(subject: str) -> Any:
    if subject == "threads":
        return _in_a_fork(OMP_NUM_THREADS="1", GOMP_CPU_AFFINITY=str(max(os.sched_getaffinity(0))))
    if subject == "context":
        return sys.modules["vllm.v1.engine.core"].get_mp_context()
    return sys.modules["vllm.model_executor.models.registry"]._run_in_subprocess(os.getppid) == os.getpid()


def _in_a_fork(**variables: str) -> str:
    """The threads that one has been told to use, and its cores."""
    os.environ.update(variables)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, f"{THREADS} {os.sched_getaffinity(0)}".encode())
        os._exit(0)
    return os.read(reader, 1000).decode()


def terminate(*_: object) -> None:
    os.write(1, b"terminated\n")
    os._exit(7)


def finish(end: str) -> None:
    kind, _, value = end.partition(" ")
    if kind == "exit":
        sys.exit(int(value))
    if kind == "say":
        sys.exit(value)
    if kind == "raise":
        raise RuntimeError(value)
    if kind == "kill":
        os.kill(os.getpid(), int(value))
    while True:
        signal.pause()


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        pass  # a client that left


class Handler(socketserver.StreamRequestHandler):
    """One request of each connection. A third of each fake's start would go into the import of `http.server`."""

    def handle(self) -> None:
        method, self.path, _ = self.rfile.readline().decode().split()
        length = 0
        while header := self.rfile.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        data = self.rfile.read(length)
        if method == "POST":
            self._change_something(json.loads(data) if data else {})
        else:
            self._tell()

    def _tell(self) -> None:
        if self.path == "/health":
            self._health()
            return
        length = PLAN.get("context", 4096) or None
        cards = [{"id": "adapter", "parent": "demo", "max_model_len": None}, {"id": "demo", "max_model_len": length}]
        self._reply(200, {"object": "list", "data": cards} if self.path == "/v1/models" else {})

    def _health(self) -> None:
        how = PLAN.get("health", "200")
        if how == "hang":
            time.sleep(1000)
        while how == "spin" and PLAN["health"] == "spin":
            pass
        self._reply(int(how) if how.isdigit() else 200, {})

    loaded: ClassVar[dict[str, str]] = {}

    def _change_something(self, body: dict[str, Any]) -> None:
        print("asked", self.path, json.dumps(body), flush=True)
        if self.path == "/plan":
            PLAN.update(body)
            self._reply(200, {})
        elif self.path.startswith(("/sleep", "/wake_up")):
            self._change()
        elif "lora_adapter" in self.path:
            self._reply(*self._adapter(body))
        else:
            self._warm_up()

    def _adapter(self, body: dict[str, str]) -> tuple[int, Any]:
        name = body["lora_name"]
        if self.path.endswith("/unload_lora_adapter"):
            path = self.loaded.pop(name, None)
            return (200, "Success") if path else (404, error(f"The lora adapter '{name}' cannot be found."))
        if name in PLAN.get("adapters", {}):
            status, message = PLAN["adapters"][name]
            return status, error(message)
        if name in self.loaded:
            return 400, error(f"The lora adapter '{name}' has already been loaded. If you want")
        self.loaded[name] = body["lora_path"]
        return 200, "Success"

    def _change(self) -> None:
        falls_asleep = self.path.startswith("/sleep")
        how = PLAN.get("asleep" if falls_asleep else "awake", "200")
        if how == "hang":
            time.sleep(1000)
        if how.startswith("kill"):
            os.kill(os.getpid(), int(how.removeprefix("kill ")))
        sleeping = falls_asleep or how == "stay"
        status = int(how) if how.isdigit() else 200
        self._reply(
            status, {"status": "sleeping" if sleeping else "awake"} if status == 200 else error("out of memory")
        )

    def _warm_up(self) -> None:
        warm_up = PLAN.get("warm_up", "200")
        if warm_up == "404":
            self._reply(404 if self.path == "/v1/completions" else 200, {"error": "Not Found"})
        elif warm_up.isdigit():
            self._reply(int(warm_up), {"error": "EngineCore encountered an issue"} if warm_up != "200" else {})
        elif warm_up == "hang":
            time.sleep(1000)
        else:
            os.write(2, b"RuntimeError: the kernel is missing here\n")
            os.kill(os.getpid(), int(warm_up.removeprefix("kill ")))

    def _reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.wfile.write(f"HTTP/1.0 {status} -\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "", "param": None, "code": 0}}
