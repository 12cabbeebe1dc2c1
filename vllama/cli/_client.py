"""A client of the running server."""

import json
import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from vllama.cli._address import server_url
from vllama.errors import VllamaError
from vllama.settings import Settings

_QUICK = httpx.Timeout(120.0, connect=10.0)
_PATIENT = httpx.Timeout(None, connect=10.0)
"""For what takes as long as a model takes to load or to download: who waits can press Ctrl-C."""
_LISTENING = httpx.Timeout(45.0, connect=10.0)
"""For events, between which the server sends heartbeats: three of them may be missed."""


class Refused(VllamaError):  # noqa: N818 - what it is, as HTTP's exceptions are named
    """What the server answered instead of what was asked for. status: 200 where a stream had begun."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """Each method is a request. All raise `Refused` for what the server refuses, VllamaError where there is none."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        self.key = key
        # Reading the authorities' certificates takes longer than most commands do.
        verify = True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, verify=verify, trust_env=False, timeout=_QUICK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        return _decoded(self._ask("GET", path).text)

    def post(self, path: str, body: Any, *, patient: bool = False) -> Any:
        """patient: it may take as long as a model takes to load."""
        answer = self._ask("POST", path, json=body, timeout=_PATIENT if patient else _QUICK)
        return _decoded(answer.text) if answer.content else None

    def delete(self, path: str, body: Any) -> None:
        self._ask("DELETE", path, json=body)

    def has_blob(self, digest: str) -> bool:
        try:
            self._ask("HEAD", f"/api/blobs/{digest}")
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True

    def send_blob(self, digest: str, size: int, content: Iterable[bytes]) -> None:
        headers = {"Content-Length": str(size)}
        self._ask("POST", f"/api/blobs/{digest}", content=content, headers=headers, timeout=_PATIENT)

    @contextmanager
    def stream(self, path: str, body: Any) -> Iterator[Iterator[Any]]:
        """The objects of a streamed answer. Leaving early closes the connection, which is what cancels the work."""
        with (
            self._explained(),
            self._http.stream("POST", path, json=body, timeout=_PATIENT) as response,
        ):
            if response.is_error:
                response.read()
                raise _refusal(response)
            yield _objects(response)

    @contextmanager
    def events(self, path: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """Server-Sent Events: the name of each, and its data. They end when the server does."""
        with self._explained(), self._http.stream("GET", path, timeout=_LISTENING) as response:
            if response.is_error:
                response.read()
                raise _refusal(response)
            yield _events(response)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self._explained():
            response = self._http.request(method, path, **more)
        if response.is_error:
            raise _refusal(response)
        return response

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise VllamaError(
                f"could not connect to vllama server at {self.url}", "start it with `vllama serve`"
            ) from None
        except httpx.TimeoutException:
            raise VllamaError(f"the server at {self.url} did not answer in time", "look at its log") from None
        except httpx.UnsupportedProtocol:
            raise VllamaError(f"{self.url} is no address of a server", "correct OLLAMA_HOST") from None
        except httpx.TransportError:
            raise VllamaError(f"the server at {self.url} closed the connection", "look at its log") from None


def connect(settings: Settings | None = None) -> Server:
    """The server that the settings name."""
    from vllama.settings import load

    return Server(server_url(settings or load()), os.environ.get("OLLAMA_API_KEY", ""))


def _objects(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if not line.strip():
            continue
        chunk = _decoded(line)
        if isinstance(chunk, dict) and "error" in chunk:
            raise Refused(response.status_code, str(chunk["error"]))
        yield chunk


def _events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    name, data = "", list[str]()
    for line in response.iter_lines():
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data.append(value)
        elif not line and data:
            yield name, _decoded("\n".join(data))
            name, data = "", []


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise VllamaError(f"the server answered what is no JSON: {text[:100]!r}", "is it vLLama or Ollama?") from None


def _refusal(response: httpx.Response) -> Refused:
    try:
        message = response.json()["error"]
    except (ValueError, TypeError, LookupError):
        message = response.text.strip() or f"{response.status_code} {response.reason_phrase}"
    return Refused(response.status_code, str(message))
