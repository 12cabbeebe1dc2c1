"""From an engine's bytes to its client's, without a task, a wait or a copy more than it takes."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from vllama.engine.client import Response as EngineResponse
from vllama.engine.events import Events
from vllama.framing import STOPPING, Framing
from vllama.routes._failures import to_the_end
from vllama.streams import Outlet, Stream, begin
from vllama.translate.shortcut import Express, Write


class Translator(Protocol):
    """Makes a client's reply of an engine's."""

    def feed(self, blocks: list[bytes], out: list[bytes]) -> None:
        """Append what the blocks of events, which came together, become.

        Raises ApiError or EngineGoneError for one that is an error; what came before it has been appended then.
        """
        ...

    def express(self, write: Write) -> Express | None:
        """What writes what becomes of a plain event that came alone, as nearly all do, until something is fed.

        None where no event is known as plain.
        """
        ...

    def end(self, out: list[bytes]) -> None:
        """Append what ends the reply. Raises ApiError where the engine did not bring it to an end."""
        ...


async def send_objects(request: Request, stream: Stream, framing: Framing) -> Response:
    """Objects of Ollama's as a response. What goes wrong behind the first ones is the last."""
    told = to_the_end(stream, lambda error: framing.failure(error.message))
    return await begin(request, told, framing.media_type, framing.failure(STOPPING))


class Pipe:
    """A streamed reply on its way through a translator: its first bytes, and then the rest."""

    def __init__(self, response: EngineResponse, translator: Translator) -> None:
        self._response = response
        self._translator = translator
        self._events = Events()
        self._write_now: Callable[[bytes], bool]
        self._write: Callable[[bytes], Awaitable[None] | None]
        self._failure: Exception | None = None
        self._out: list[bytes] = []  # of the last read: it goes out with the end
        self._last: Awaitable[None] | None = None
        self._ended = False

    async def first(self) -> bytes:
        """As much as there is when there is something. Raises what went wrong before it."""
        out: list[bytes] = []
        try:
            while not out and not self._ended:
                if data := await self._response.next():
                    self._translator.feed(self._events.feed(data), out)
                else:
                    self._end(out)
        except Exception as error:
            if not out:
                raise
            self._failure = error
        return b"".join(out)

    async def rest(self, outlet: Outlet) -> None:
        """Have what follows written to the outlet as it comes. Raises what goes wrong, behind what came before it."""
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return
        self._write_now, self._write = outlet.write_now, outlet.write
        self._set_express()
        try:
            await self._response.pour(self._pass_on)
            self._end(self._out)
            outlet.keep_for_end(b"".join(self._out))
        except BaseException:
            if self._out:
                self._last = self._write(b"".join(self._out))
            raise
        finally:
            if self._last is not None:
                await self._last

    def _pass_on(self, data: bytes) -> Awaitable[None] | None:
        """What was read goes out at once, the last of it with the end. Returns what to wait for before more is read."""
        self._response.express = None
        out: list[bytes] = []
        try:
            self._translator.feed(self._events.feed(data), out)
        except Exception:
            if out:
                self._last = self._write(b"".join(out))
            raise
        if self._response.is_whole:
            self._out = out
            return None
        held = self._write(b"".join(out)) if out else None
        if held is None:
            self._set_express()
        return held

    def _set_express(self) -> None:
        if self._events.is_between:
            self._response.express = self._translator.express(self._write_now)

    def _end(self, out: list[bytes]) -> None:
        self._ended = True
        self._translator.feed(self._events.close(), out)
        self._translator.end(out)
