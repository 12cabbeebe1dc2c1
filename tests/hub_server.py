"""A hub of our own for tests: the part of its HTTP API that huggingface_hub uses.

By hand: `python -m tests.hub_server --port 8700 org/demo=vllama/demo/chat`, and HF_ENDPOINT set to where it listens.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by id; each a dict of file names and contents.

    cut, stalled: files that break off in the middle, the first time; that go on there only after `release`. wrong:
    contents that are sent instead. sizes: what is said of files instead of their sizes. pace: bytes a second of each
    file. pushed: what was committed. loud: whether to print what is asked for.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {}
        self.cut: set[str] = set()
        self.stalled: set[str] = set()
        self.wrong: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.pace = 0
        self.loud = False
        self.stalling = threading.Event()
        self.release = threading.Event()
        self.ranges: list[str] = []
        self.tokens: set[str | None] = set()
        self.fetched: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.uploads: dict[str, bytes] = {}
        self.pushed: dict[str, dict[str, bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def contents_of(self, name: str) -> Iterator[bytes]:
        return (files[name] for files in self.repos.values() if name in files)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Cut connections are what this server is for."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        if self.server.loud:
            print(f"{code} {self.command} {self.path}", self.headers.get("Range", ""), flush=True)

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

    def do_POST(self) -> None:
        """What a push asks for."""
        self.server.tokens.add(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlparse(self.path).path.strip("/")
        if path in self.server.refusals:
            status, headers = self.server.refusals[path]
            return self.answer(status, b"{}", headers)
        if path == "api/repos/create":
            self.server.created.append(json.loads(body))
            return self.answer(200, json.dumps({"url": f"{self.server.url}/org/pushed"}).encode())
        if path == "api/validate-yaml":
            return self.answer(200, b'{"errors": [], "warnings": []}')
        if "/preupload/" in path:
            files = [self.upload_mode(file["path"]) for file in json.loads(body)["files"]]
            return self.answer(200, json.dumps({"files": files}).encode())
        if path.endswith("/info/lfs/objects/batch"):
            return self.answer(200, json.dumps({"objects": [*map(self.upload, json.loads(body)["objects"])]}).encode())
        repo, _, _ = path.removeprefix("api/models/").partition("/commit/")
        self.server.pushed[repo] = dict(filter(None, map(self.committed, body.splitlines())))
        commit = {"commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT}
        return self.answer(200, json.dumps(commit).encode())

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.uploads[hashlib.sha256(body).hexdigest()] = body
        self.answer(200, b"")

    def upload_mode(self, path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if is_lfs(path) else "regular", "shouldIgnore": False}

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return wanted | {"actions": {"upload": {"href": f"{self.server.url}/upload/{wanted['oid']}"}}}

    def committed(self, line: bytes) -> tuple[str, bytes] | None:
        change = json.loads(line)
        value = change["value"]
        if change["key"] == "file":
            return value["path"], base64.b64decode(value["content"])
        return (value["path"], self.server.uploads[value["oid"]]) if change["key"] == "lfsFile" else None

    def listing(self, path: str, repo: str, files: dict[str, bytes]) -> Any:
        if "/tree/" in path:
            return [self.entry(name, content) for name, content in files.items()]
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        size = self.server.sizes.get(name, len(content))
        entry = {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(content).hexdigest()}
        if is_lfs(name):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
        return entry

    def send_file(self, name: str, content: bytes) -> None:
        etag = (hashlib.sha256 if is_lfs(name) else hashlib.sha1)(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        content = self.server.wrong.get(name, content)
        start, status = 0, 200
        if wanted := self.headers.get("Range"):
            self.server.ranges.append(wanted)
            start, status = int(wanted.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "HEAD":
            return self.answer(status, content[start:], headers)
        self.server.fetched.append(name)
        rest = content[start:]
        half = len(rest) // 2 if name in self.server.cut or name in self.server.stalled else len(rest)
        self.answer(status, rest, headers, only=half)
        if name in self.server.cut:
            self.server.cut.discard(name)
            self.close_connection = True
            self.connection.close()
        elif name in self.server.stalled:
            self.server.stalling.set()
            self.server.release.wait(30)
            self.wfile.write(rest[half:])
        return None

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, only: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.write(body[:only])
            self.wfile.flush()

    def write(self, body: bytes) -> None:
        piece = self.server.pace // 10 or len(body)
        for start in range(0, len(body), piece or 1):
            self.wfile.write(body[start : start + piece])
            time.sleep(0.1 if self.server.pace else 0)


@contextlib.contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for the only one, with its cache below the folder."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with Hub() as hub:
        monkeypatch.setenv("HF_HOME", str(folder / "hf"))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.release.set()
            hub.shutdown()
            thread.join()


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin"))


def main() -> None:
    """Serve folders as repositories until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub_server")
    parser.add_argument("repositories", nargs="+", metavar="ORGANISATION/NAME=FOLDER")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pace", type=int, default=0, help="bytes a second of each file")
    parser.add_argument("--gated", action="append", default=[], help="a repository whose terms are not accepted")
    parser.add_argument("--cut", action="append", default=[], help="a file that breaks off in the middle, once")
    parser.add_argument("--wrong", action="append", default=[], help="a file that comes with another content")
    parser.add_argument("--size", action="append", default=[], metavar="FILE=BYTES", help="what is said of its size")
    given = parser.parse_args()
    with Hub(given.port) as hub:
        for repository in given.repositories:
            name, _, folder = repository.partition("=")
            hub.repos[name] = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        hub.refusals = dict.fromkeys(given.gated, (403, {"X-Error-Code": "GatedRepo"}))
        hub.cut = set(given.cut)
        hub.wrong = {name: content[::-1] for name in given.wrong for content in hub.contents_of(name)}
        hub.sizes = {name: int(size) for name, _, size in (one.partition("=") for one in given.size)}
        hub.pace, hub.loud = given.pace, True
        print(f"listening on {hub.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            hub.serve_forever()


if __name__ == "__main__":
    main()
