"""How replies leave: NDJSON, Server-Sent Events or one JSON object; and clients that do not wait for them."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vllama.errors import ApiError

T = TypeVar("T")

STOPPING = "the server is stopping: send the request again later"

LINGER_S = 2.0
"""How long a client whose body is too large may go on sending before its connection is closed."""

_ASKS_EVENTS = re.compile(r"\s*text/event-stream\s*(;|$)")
_ASKS_LINES = re.compile(r"\s*application/x-ndjson\s*(;|$)")
_UNWANTED = re.compile(r";\s*q\s*=\s*0(\.0*)?\s*(;|$)")


CLIENT = "vllama.client"
"""An extension of ASGI: it returns the `Client`, as long as its request is not through."""


class Client(Protocol):
    """Who asked, as the server knows it that has the connection: what needs no coroutine there."""

    def write(self, data: bytes) -> bool:
        """Send a part of the reply's body. Returns False, and takes nothing, where ASGI's `send` is to decide.

        What a client would get that has left is taken, and dropped.
        """
        ...

    def attend(self, tell: Callable[[], None]) -> Callable[[], object]:
        """Have `tell` called when the connection is lost, soon where it is already. Returns what has it forgotten.

        The request's body must have been read: behind one that is not, nobody sees the connection's end.
        """
        ...


def client_of(scope: Scope) -> Client | None:
    """None where the server does not know that extension."""
    find = scope.get("extensions", {}).get(CLIENT)
    found: Client | None = None if find is None else find()
    return found


class ClientLeft(Exception):  # noqa: N818 - no error of anybody's
    """The client closed its connection before its reply was ready."""


class JSONResponse(Response):
    """One JSON object, encoded by msgspec."""

    media_type = "application/json; charset=utf-8"

    def __init__(self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(msgspec.json.encode(content), status_code, headers)


def accepts_events(request: Request) -> bool:
    """Whether the client asks for Server-Sent Events. Ollama's clients expect NDJSON, also those that name both."""
    accepted = ",".join(request.headers.getlist("accept")).lower()
    if "event-stream" not in accepted:
        return False
    kinds = accepted.split(",")
    wanted = [kind for kind in kinds if not _UNWANTED.search(kind)]
    return any(map(_ASKS_EVENTS.match, wanted)) and not any(map(_ASKS_LINES.match, wanted))


@dataclass(frozen=True)
class Framing:
    """How JSON texts are told apart in a stream. before, after: what surrounds each of them."""

    media_type: str
    before: bytes
    after: bytes

    def frame(self, text: bytes) -> bytes:
        return self.before + text + self.after

    def failure(self, message: str) -> bytes:
        """What ends a stream of Ollama's that cannot go on."""
        return self.frame(msgspec.json.encode({"error": message}))


LINES = Framing("application/x-ndjson", b"", b"\n")
EVENTS = Framing("text/event-stream", b"data: ", b"\n\n")


def framing_of(request: Request) -> Framing:
    """What the client asks for: Server-Sent Events, or the lines that every client of Ollama understands."""
    return EVENTS if accepts_events(request) else LINES


async def until_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """Do the work, or cancel it and raise ClientLeft as soon as the client is gone. The body must have been read.

    Raises ApiError 503 when cancelled: the server does that to what still waits when its time to drain is over.
    """
    try:
        with Attended(request.scope, request.receive):
            return await work
    except asyncio.CancelledError:
        raise ApiError(503, STOPPING) from None


class Attended:
    """A context in which the running task is cancelled as soon as the client is gone; it ends with ClientLeft then.

    The request's body must have been read before.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._inside = True
        self._left = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        client = client_of(self._scope)
        self._forget = _watch(self._receive, self._cancel) if client is None else client.attend(self._cancel)

    def _cancel(self) -> None:
        if self._inside:
            self._left = True
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        self._inside = False
        self._forget()
        del self._forget  # which knows this one: nothing is left to the garbage collector
        # As in asyncio.timeout: whoever else cancelled the task meanwhile is to be heard.
        if self._left and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientLeft


class Unread(Response):
    """A response to a client that may still be sending its body, which nobody reads.

    What it sends is thrown away for a while: closing at once would make its system forget the response.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code, dict(response.headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await _throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class HangUp(Unread):
    """One after which the connection is closed."""

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.headers["Connection"] = "close"


def _watch(receive: Receive, tell: Callable[[], None]) -> Callable[[], object]:
    """As `Client.attend`, of any server."""

    def ended(watching: "asyncio.Task[None]") -> None:
        if not watching.cancelled():
            tell()

    watching = asyncio.create_task(_client_left(receive))
    watching.add_done_callback(ended)
    return watching.cancel


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _throw_away(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass
