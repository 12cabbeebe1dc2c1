"""A hub of our own for tests: the part of its HTTP API that huggingface_hub uses."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by id; each a dict of file names and contents."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {}
        self.cut: set[str] = set()
        self.stalled: set[str] = set()
        self.stalling = threading.Event()
        self.release = threading.Event()
        self.ranges: list[str] = []
        self.tokens: set[str | None] = set()
        self.fetched: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Cut connections are what this server is for."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        path = urlparse(self.path).path.strip("/")
        repo = "/".join(path.removeprefix("api/models/").split("/")[:2])
        if repo in self.server.refusals:
            status, headers = self.server.refusals[repo]
            return self.answer(status, b"{}", headers)
        files = self.server.repos.get(repo)
        if files is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.startswith("api/models/"):
            return self.answer(200, json.dumps(self.listing(path, repo, files)).encode())
        _, _, name = path.partition(f"/resolve/{COMMIT}/")
        return self.send_file(name, files[name])

    def listing(self, path: str, repo: str, files: dict[str, bytes]) -> Any:
        if "/tree/" in path:
            return [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}

    def send_file(self, name: str, content: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start, status = 0, 200
        if wanted := self.headers.get("Range"):
            self.server.ranges.append(wanted)
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "HEAD":
            return self.answer(status, content[start:], headers)
        self.server.fetched.append(name)
        broken = name in self.server.cut or name in self.server.stalled
        self.answer(status, content[start:], headers, only=(len(content) - start) // 2 if broken else None)
        if name in self.server.stalled:
            self.server.stalling.set()
            self.server.release.wait(30)
        if broken:
            self.server.cut.discard(name)
            self.close_connection = True
            self.connection.close()
        return None

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, only: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:only])
            self.wfile.flush()
