"""vLLM's server as its supervision sees it: a process that prints, listens, answers and ends, well or badly.

The real launcher runs it in place of vLLM. What it does stands as JSON in `$FAKE`:

out: text that it prints first. print_every, prints: so many seconds between so many lines, before it goes on.
child: `group` or `session`, a process of its own that it starts in one, and whose pid it prints.
ignore: it ignores SIGTERM; else it prints "terminated" and exits with 7.
end: `exit N`, `raise TEXT`, `say TEXT` (exits with a text), `kill N` or `hang`, in place of listening.
warm_up: what the first prompt does: `404` (but it embeds), `500`, `hang`, or `kill N`, after an error of its own.
context: in tokens, 0: it does not say.
"""

import contextlib
import json
import os
import signal
import socketserver
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

PLAN: dict[str, Any] = {}


def main() -> None:
    PLAN.update(json.loads(os.environ.get("FAKE", "{}")))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if PLAN.get("ignore") else terminate)
    if child := PLAN.get("child"):
        apart: dict[str, Any] = {"start_new_session": True} if child == "session" else {"process_group": 0}
        print("child", subprocess.Popen(["sleep", "1000"], **apart).pid, flush=True)
    print(PLAN.get("out", "hello"), flush=True)
    for number in range(PLAN.get("prints", 0)):
        time.sleep(PLAN["print_every"])
        print(f"line {number}", flush=True)
    if end := PLAN.get("end"):
        finish(end)
    with contextlib.suppress(IndexError):
        Server(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()


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


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        length = PLAN.get("context", 4096) or None
        cards = [{"id": "adapter", "parent": "demo", "max_model_len": None}, {"id": "demo", "max_model_len": length}]
        self._reply(200, {"object": "list", "data": cards} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print("asked", self.path, json.dumps(body), flush=True)
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
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
