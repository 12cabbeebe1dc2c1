"""What an engine is asked, over a Unix socket or TCP."""

import asyncio
import contextlib
import enum
import errno
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from vllama.engine.address import read_address
from vllama.engine.fate import Fate
from vllama.engine.form import Form
from vllama.engine.pool import EXHAUSTED, Pool
from vllama.engine.response import Response as Response
from vllama.errors import EngineError, EngineGoneError

_LAST_WORDS = (b"EngineCore encountered an issue", b"EngineDeadError")


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
        self._api_key = api_key
        self._pool: Pool | None = None
        self._prefix = self._headers = ""
        self._replies: set[Response] = set()
        self._asking = 0
        self._is_closed = False
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

    def _open(self) -> Pool:
        if self._is_closed:
            raise EngineGoneError("the engine was stopped")
        if self._pool is None:
            address = read_address(self.url)
            self._prefix, self._headers = address.prefix, _headers(address.authority, self._api_key)
            self._pool = Pool(address)
        return self._pool

    @contextlib.asynccontextmanager
    async def request(self, method: str, path: str, body: bytes | Form | None = None) -> AsyncIterator[Response]:
        """Send a request, bytes as JSON; leaving the context before the reply is read through aborts it in the engine.

        Raises EngineGoneError where the engine cannot be reached or goes away, EngineError where it takes too long.
        """
        self._asking += 1
        try:
            response = await self._ask(method, path, body)
        finally:
            self._asking -= 1
        self.answered += 1
        self._replies.add(response)
        try:
            yield response
        finally:
            self._replies.discard(response)
            response.close()

    async def _ask(self, method: str, path: str, body: bytes | Form | None) -> Response:
        pool = self._open()
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}"
        if isinstance(body, Form):
            head += f"Content-Type: {body.content_type}\r\nContent-Length: {body.size}\r\n"
        elif body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return await pool.ask(f"{head}\r\n".encode(), body or b"")

    async def warm(self, count: int) -> None:
        """Open connections ahead, so that the first requests do not pay for them; they tell what is wrong, if it is."""
        with contextlib.suppress(EngineError):
            await self._open().warm(count)

    async def get(self, path: str, *, seconds: float) -> bytes:
        """The body of a GET, which counts neither as waiting nor as answered: it takes no model to answer one.

        Raises EngineError for anything but a 200 in time.
        """
        status, data = await self._get(path, seconds)
        if status != 200:
            raise EngineError(f"{path} answered {status}: {data[:200].decode(errors='replace')}")
        return data

    async def _get(self, path: str, seconds: float) -> tuple[int, bytes]:
        async with in_time(seconds):
            response = await self._ask("GET", path, None)
            with contextlib.closing(response):
                return response.status, await response.read()

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
        try:
            status, _ = await self._get("/health", seconds)
        except EngineError as error:
            cause = error.__cause__
            number = cause.errno if isinstance(cause, OSError) else None
            return _HEALTH_OF_ERRORS.get(number or 0, Health.SILENT)
        return _HEALTH.get(status, Health.SILENT)

    async def close(self) -> None:
        """For good: what is asked afterwards, or still is being asked, fails with EngineError."""
        self._is_closed = True
        if self._pool is not None:
            self._pool.close()


_HEALTH = {200: Health.GOOD, 503: Health.DEAD}
_HEALTH_OF_ERRORS = {
    **dict.fromkeys((errno.ECONNREFUSED, errno.ENOENT), Health.REFUSED),
    **dict.fromkeys(EXHAUSTED, Health.UNKNOWN),
}


def _headers(authority: str, api_key: str | None) -> str:
    """Those of every request. Compressing a stream would hold its tokens back."""
    headers = f"Host: {authority}\r\nUser-Agent: vllama\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
    if not api_key:
        return headers
    if not api_key.isprintable():
        raise EngineGoneError("the engine cannot be reached (its API key has a character that no header may have)")
    return f"{headers}Authorization: Bearer {api_key}\r\n"


@contextlib.asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Raises EngineError where what is asked inside takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise EngineError("the engine did not answer in time") from error


def death(reply: bytes) -> EngineGoneError | None:
    """What an error, a reply's body or an event of a stream, means where it says that all of the engine is lost."""
    said = any(sign in reply for sign in _LAST_WORDS)
    return EngineGoneError("the engine says that it cannot go on") if said else None
