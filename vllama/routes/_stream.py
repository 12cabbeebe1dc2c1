"""From an engine's bytes to its client's, without a task, a wait or a copy more than it takes."""

from collections.abc import Awaitable
from typing import Protocol

from vllama.engine.client import Response
from vllama.engine.events import Events
from vllama.streams import Outlet, Stream


class Translator(Protocol):
    """Makes a client's reply of an engine's."""

    def feed(self, blocks: list[bytes], out: list[bytes]) -> None:
        """Append what the blocks of events, which came together, become.

        Raises ApiError or EngineGoneError for one that is an error; what came before it has been appended then.
        """
        ...

    def end(self, out: list[bytes]) -> None:
        """Append what ends the reply. Raises ApiError where the engine did not bring it to an end."""
        ...


async def relay(response: Response, translator: Translator) -> Stream:
    """A streamed reply. An error before its first bytes is raised instead of them."""
    pipe = _Pipe(response, translator)
    pipe.outlet = yield await pipe.first()
    await pipe.rest()


class _Pipe:
    def __init__(self, response: Response, translator: Translator) -> None:
        self.outlet: Outlet
        self._response = response
        self._translator = translator
        self._events = Events()
        self._failure: Exception | None = None
        self._held: Awaitable[None] | None = None
        self._ended = False

    async def first(self) -> bytes:
        """As much as there is when there is something."""
        out: list[bytes] = []
        try:
            while not out and not self._ended:
                self._read(await self._response.next(), out)
        except Exception as error:
            if not out:
                raise
            self._failure = error
        return b"".join(out)

    async def rest(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return
        try:
            await self._response.pour(self._pass_on)
            self._held = self._pass_on(b"")
        finally:
            if self._held is not None:  # what was written, also before something wrong was met
                await self._held

    def _pass_on(self, data: bytes) -> Awaitable[None] | None:
        """What was read goes out at once. Returns what to wait for before more is read."""
        out: list[bytes] = []
        self._held = None
        try:
            self._read(data, out)
        finally:
            if out:
                self._held = self.outlet.write(b"".join(out))
        held, self._held = self._held, None
        return held

    def _read(self, data: bytes, out: list[bytes]) -> None:
        """data: b"" at the reply's end."""
        if data:
            self._translator.feed(self._events.feed(data), out)
            return
        self._ended = True
        self._translator.feed(self._events.close(), out)
        self._translator.end(out)
