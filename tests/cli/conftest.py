"""What tests of commands share: a way to run them in this process, and a server that answers what a test scripts."""

import asyncio
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.fake_engine import Recordings
from vllama.cli import main
from vllama.models.catalogue import Catalogue
from vllama.models.modelfile import Modelfile


@dataclass
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Done]
HANG = object()


@pytest.fixture
def run(monkeypatch, tmp_path, capsys) -> Run:
    """`run("ps", url=...)`: the command in this process. stdin: what a pipe brings it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLAMA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("VLLAMA_HOST", "VLLAMA_PORT", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, url: str, stdin: str = "") -> Done:
        monkeypatch.setenv("OLLAMA_HOST", url)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return Done(ended.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def run_api(run, gateway_url, engines):
    """The same before the recorded engines, whose gateway runs in this process's event loop."""

    async def run_api(*arguments: str, stdin: str = "") -> Done:
        return await asyncio.to_thread(run, *arguments, url=gateway_url, stdin=stdin)

    return run_api


@pytest.fixture
def run_greedy(run, alone, models):
    """The same before a demo whose Modelfile has the temperature of the recordings."""
    greedy = replace(models["demo"], modelfile=Modelfile(parameters={"temperature": 0}))
    alone.gateway.catalogue = Catalogue([greedy])
    alone.engine.answer = alone.engine.replay(Recordings("demo"))

    async def run_greedy(*arguments: str, stdin: str = "") -> Done:
        return await asyncio.to_thread(run, *arguments, url=alone.url, stdin=stdin)

    return run_greedy


@dataclass
class Scripted:
    """answers: by method and path, a status with a body, or a list of objects or bytes to stream; after a HANG among
    them nothing more comes, until the client leaves. asked: each call with its body. left: set when a client left so.
    """

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    @property
    def calls(self) -> list[str]:
        return [call for call, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: Scripted

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def _answer(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_json = self.headers.get("Content-Type") == "application/json"
        call = f"{self.command} {self.path}"
        self.scripted.asked.append((call, json.loads(data) if is_json else data))
        self.scripted.headers.append(dict(self.headers))
        answer = self.scripted.answers.get(call, (404, {"error": f"nothing is scripted for {call}"}))
        if isinstance(answer, list):
            self._stream(answer)
        else:
            status, body = answer
            self._head(status)
            if self.command != "HEAD":
                self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

    def _head(self, status: int) -> None:
        self.close_connection = True  # which is how the client sees where the body ends
        self.send_response(status)
        self.send_header("Connection", "close")
        self.end_headers()

    def _stream(self, chunks: list[Any]) -> None:
        self._head(200)
        for chunk in chunks:
            if chunk is HANG:
                assert self.connection.recv(1) == b""
                self.scripted.left.set()
                return
            self.wfile.write(chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode() + b"\n")

    do_GET = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    handler = type("Handler", (_Handler,), {"scripted": scripted})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        scripted.url = f"http://127.0.0.1:{http.server_address[1]}"
        yield scripted
        http.shutdown()
        thread.join()
