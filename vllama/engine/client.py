"""The HTTP connection to one engine, over a Unix socket or TCP."""

import contextlib
import enum
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import aiohttp
import msgspec

from vllama.engine.events import Events, data_of
from vllama.engine.fate import Fate
from vllama.errors import EngineError, EngineGoneError

IDLE_CONNECTION_S = 60.0
"""Shorter than the engine's own keep-alive, so that a request never meets a connection that is being closed."""
REPLY_TIMEOUT_S = 3600.0
"""Most seconds without a byte from the engine: a long answer that is not streamed sends nothing until its end."""
_LAST_WORDS = (b"EngineCore encountered an issue", b"EngineDeadError")


class Response:
    """An engine's reply. status; content_type: without its parameters, in lower case."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply
        self.status = reply.status
        self.content_type = reply.content_type

    @property
    def received(self) -> int:
        """Bytes of the body so far."""
        return self._reply.content.total_bytes

    async def read(self) -> bytes:
        """The whole body. Raises EngineGoneError where it breaks off, EngineError where it takes too long."""
        with translate_errors():
            return await self._reply.read()

    async def next(self) -> bytes:
        """What of the body has come since, waited for where that is nothing; b"" at its end. Raises as `read` does.

        What came before the engine broke off is given, too.
        """
        content = self._reply.content
        with translate_errors():
            try:
                return await content.readany()
            except (aiohttp.ClientError, OSError) as error:
                content.set_exception(None)  # type: ignore[arg-type]
                rest = content.read_nowait()
                content.set_exception(error)
                if rest:
                    return rest
                raise

    async def pour(self, take: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Give what comes to `take`, read by read, up to the body's end. Raises as `read` does, and what `take` raises.

        Where `take` returns something to wait for, no more is read until then.
        """
        while data := await self.next():
            if (held := take(data)) is not None:
                await held

    def close(self) -> None:
        """Abort what is left of it."""
        self._reply.close()


class Health(enum.Enum):
    """What `/health` answers. DEAD: that the engine is; REFUSED: nobody listens any more; UNKNOWN: we could not ask."""

    GOOD = enum.auto()
    DEAD = enum.auto()
    REFUSED = enum.auto()
    SILENT = enum.auto()
    UNKNOWN = enum.auto()


class EngineClient:
    """url: `unix:/path` or `http(s)://host:port[/path]`. api_key: sent as a Bearer token, if given.

    fate: what became of the engine, known to whoever watches it. answered: how many requests got a reply.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url
        self._unix = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._base = "http://engine" if self._unix else url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None
        self._replies: set[Response] = set()
        self._asking = 0
        self._closed = False
        self.fate = Fate()
        self.answered = 0

    @property
    def waiting(self) -> int:
        """How many requests have not got a byte of their reply. Of the others the engine may be through with all."""
        return self._asking + sum(not response.received for response in self._replies)

    @property
    def requests(self) -> int:
        """How many are on their way, or being answered."""
        return self._asking + len(self._replies)

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise EngineGoneError("the engine was stopped")
        if self._session is None:
            # No limit on connections: the engine's own queue is where requests wait.
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(self._unix, limit=0, keepalive_timeout=IDLE_CONNECTION_S)
                if self._unix
                else aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S)
            )
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=REPLY_TIMEOUT_S)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, headers=self._headers, read_bufsize=2**18, trust_env=False
            )
        return self._session

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        body: bytes | aiohttp.Payload | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Response]:
        """Send a request; leaving the context before the reply is read through aborts it in the engine.

        Raises EngineGoneError where the engine cannot be reached or goes away, EngineError where it takes too long.
        """
        with translate_errors():
            async with await self._ask(method, path, body, headers) as reply:
                response = Response(reply)
                self._replies.add(response)
                try:
                    yield response
                finally:
                    self._replies.discard(response)

    async def _ask(
        self, method: str, path: str, body: bytes | aiohttp.Payload | None, headers: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse:
        if body is not None:
            headers = {"Content-Type": "application/json", **(headers or {})}
        self._asking += 1
        try:
            response = await self._open().request(method, self._base + path, data=body, headers=headers)
        finally:
            self._asking -= 1
        self.answered += 1
        return response

    async def get(self, path: str, *, seconds: float) -> bytes:
        """The body of a GET, which counts neither as waiting nor as answered: it takes no model to answer one.

        Raises EngineError for anything but a 200 in time.
        """
        with translate_errors():
            limit = aiohttp.ClientTimeout(total=seconds)
            async with self._open().get(self._base + path, timeout=limit) as response:
                data = await response.read()
        if response.status != 200:
            raise EngineError(f"{path} answered {response.status}: {data[:200].decode(errors='replace')}")
        return data

    async def get_json(self, path: str, *, seconds: float, type_: type[Any] = dict) -> Any:
        """The decoded JSON of a GET. Raises EngineError for anything but a 200 with such a body in time."""
        data = await self.get(path, seconds=seconds)
        try:
            return msgspec.json.decode(data, type=type_)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise EngineError(f"{path} answered something else than expected: {error}") from None

    async def healthy(self, seconds: float = 2.0) -> bool:
        """Whether `/health` answers 200 in time."""
        return await self.health(seconds) is Health.GOOD

    async def health(self, seconds: float) -> Health:
        """What `/health` answers in time."""
        limit = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._open().get(self._base + "/health", timeout=limit) as response:
                return _HEALTH.get(response.status, Health.SILENT)
        except OSError as error:  # aiohttp's errors of connections are such, too
            return _HEALTH_OF_ERRORS.get(error.errno or 0, Health.SILENT)
        except (aiohttp.ClientError, EngineError):
            return Health.SILENT

    async def close(self) -> None:
        """For good: what is asked afterwards, or still is being asked, fails with EngineError."""
        self._closed = True
        # Whoever waits for more of a reply is not told by the session's end.
        for response in self._replies:
            response.close()
        if self._session is not None:
            await self._session.close()


_HEALTH = {200: Health.GOOD, 503: Health.DEAD}
_HEALTH_OF_ERRORS = {
    **dict.fromkeys((errno.ECONNREFUSED, errno.ENOENT), Health.REFUSED),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS), Health.UNKNOWN),
}


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """aiohttp's errors as EngineError."""
    try:
        yield
    except TimeoutError as error:
        raise EngineError("the engine did not answer in time") from error
    except aiohttp.ClientPayloadError as error:
        raise EngineGoneError("the engine's reply broke off") from error
    except (aiohttp.ClientError, OSError) as error:
        raise EngineGoneError(f"the engine cannot be reached ({error or type(error).__name__})") from error


def death(reply: bytes) -> EngineGoneError | None:
    """What an error, a reply's body or an event of a stream, means where it says that all of the engine is lost."""
    said = any(sign in reply for sign in _LAST_WORDS)
    return EngineGoneError("the engine says that it cannot go on") if said else None


async def server_sent_events(response: Response) -> AsyncGenerator[list[bytes], None]:
    """The data of a reply's Server-Sent Events; all that arrived in one read are given together.

    Comments (lines that start with a colon) are skipped, `[DONE]` is not: callers see where a stream was complete.
    Raises EngineError as `Response.read` and `Events.feed` do.
    """
    async with contextlib.aclosing(event_blocks(response)) as batches:
        async for blocks in batches:
            yield [data_of(block) for block in blocks]


async def event_blocks(response: Response) -> AsyncGenerator[list[bytes], None]:
    """A reply's Server-Sent Events as they are, without the blank lines between them."""
    events = Events()
    while data := await response.next():
        if blocks := [block for block in events.feed(data) if data_of(block)]:
            yield blocks
    if blocks := [block for block in events.close() if data_of(block)]:
        yield blocks
