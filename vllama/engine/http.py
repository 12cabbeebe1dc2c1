"""One connection to an engine, as HTTP/1.1 has it: a request, its reply, and the next one."""

import asyncio
import contextlib
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from vllama.engine.form import Form
from vllama.engine.response import Express, Response
from vllama.errors import EngineError, EngineGoneError

MAX_HEAD_BYTES = 2**16


class UnansweredError(EngineGoneError):
    """The connection ended before there was a byte of a reply."""


class Owner(Protocol):
    """Who has connections."""

    def released(self, connection: "Connection") -> None:
        """The next request may use it."""
        ...

    def lost(self, connection: "Connection") -> None:
        """It is of no use any more. May be told more than once."""
        ...


class Connection(asyncio.Protocol):
    """Belongs to its owner: whom it tells when it can be asked again, and when it cannot any more.

    A chunk that comes alone does not pass through the parser, where somebody takes it so (`Response.express`): the
    parser is between two chunks then, and need not know of it.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._transport: asyncio.Transport
        self._response: Response | None = None
        self._express: Express | None = None
        self._is_paused = self._is_choked = False
        self._reads = self._reads_asked = self._reads_seen = 0
        self._silent_since: float | None = None
        self._start()

    def _start(self) -> None:
        self._is_between_chunks = False
        self._reads_asked, self._silent_since = self._reads, None
        self._is_sent, self._is_complete, self._keeps_alive = True, False, False
        self._head_bytes = self._unended = 0
        self._content_type, self._until_closed = "", True

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes | Form = b"") -> Response:
        """The reply to a request, once its head is there.

        Raises UnansweredError where there is none, EngineGoneError and EngineError as reading the reply does. Where
        this is cancelled, the engine notices at once: the connection is aborted.
        """
        self._start()
        if self.is_closing:
            self.abort()
            raise self._loss(None)
        response = self._response = Response(self)
        try:
            if isinstance(body, Form):
                self._transport.write(head)
                await self._send(body, response)
            else:
                self._transport.writelines((head, body) if body else (head,))
            await response.begun()
        except BaseException:
            self.fail(EngineGoneError("the engine's reply broke off"))
            raise
        return response

    async def _send(self, form: Form, response: Response) -> None:
        """Send it at the engine's pace, and no more of it once there is a reply."""
        self._is_sent = False
        async with contextlib.aclosing(form.pieces()) as pieces:
            async for piece in pieces:
                while self._is_choked and response.is_open and not response.status:
                    await response.change()
                if response.status or not response.is_open:
                    return
                self._transport.write(piece)
        self._is_sent = True

    def abort(self) -> None:
        """Close it at once: what the engine does for it is in vain, which it notices."""
        self._owner.lost(self)
        self._transport.abort()

    def fail(self, error: EngineError) -> None:
        """Abort it; whoever waits for a reply is told why."""
        response, self._response = self._response, None
        self._express = None
        self.abort()
        if response is not None:
            response.end(error)

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Whether nothing came for so long, while something was waited for. To be asked from time to time."""
        if self._silent_since is None or self._is_paused or self._reads != self._reads_seen:
            self._silent_since, self._reads_seen = now, self._reads
        return self._response is not None and now - self._silent_since >= seconds

    def pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    # From the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if (take := self._express) is not None:
            # A chunk, the whole of it and nothing else, is what most tokens come as: that takes no parser to see.
            start = data.find(b"\n") + 1
            size = b"%x\r\n" % (len(data) - start - 2)
            if data.startswith(size) and data.endswith(b"\r\n") and take(data[start:-2]):
                self._silent_since = None
                return
        self._read(data)

    def _read(self, data: bytes) -> None:
        self._express = None
        if (response := self._response) is None:
            self.abort()  # nothing was asked
            return
        self._reads += 1
        try:
            self._feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._refuse(error)
            return
        if pieces := self._pieces:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            response.give(body)
        if self._is_complete:
            self._finish()
        elif not response.status:
            self._check_head(len(data))
        elif self._response is not None and self._is_between_chunks and data.endswith(b"\r\n"):
            self._express = response.express  # else a part of the next chunk's size may be there already

    def eof_received(self) -> None:
        """Nobody can be asked on it any more, though it may take a turn of the loop until it is lost."""
        self._owner.lost(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.lost(self)
        response, self._response = self._response, None
        if response is not None:
            ended = self._until_closed and response.status and error is None
            response.end(None if ended else self._loss(error))

    def pause_writing(self) -> None:
        self._is_choked = True

    def resume_writing(self) -> None:
        self._is_choked = False
        if self._response is not None:
            self._response.wake()

    def _loss(self, error: Exception | None) -> EngineGoneError:
        if self._reads != self._reads_asked:
            return EngineGoneError("the engine's reply broke off")
        return UnansweredError(f"the engine cannot be reached ({error or 'it closed the connection'})")

    def _check_head(self, size: int) -> None:
        """size: of what came, and did not end the head."""
        self._unended += size
        if self._unended > MAX_HEAD_BYTES:
            self.fail(_head_too_large())

    def _refuse(self, error: Exception) -> None:
        """Give up on what is no HTTP, or not what was asked for, after what came before it."""
        response = self._response
        if response is not None and self._pieces:
            response.give(b"".join(self._pieces))
        if self._is_complete:
            self._keeps_alive = False
            self._finish()
        else:
            refused = error.__context__  # by one of the callbacks below
            garbage = EngineError(f"the engine's server does not speak HTTP ({error})")
            self.fail(refused if isinstance(refused, EngineError) else garbage)

    def _finish(self) -> None:
        response, self._response = self._response, None
        if response is None:
            return  # whoever took the last of it gave it up
        if self._keeps_alive and self._is_sent and not self._transport.get_write_buffer_size():
            self.resume()
            self._owner.released(self)
        else:
            self.abort()
        response.end(None)

    # From the parser

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise EngineError("the engine sent more than was asked for")
        self._content_type, self._until_closed = "application/octet-stream", True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + len(": \r\n")
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _head_too_large()
        name = name.lower()
        if name == b"content-type":
            self._content_type = value.partition(b";")[0].strip().lower().decode("latin-1")
        elif name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value.lower()):
            self._until_closed = False

    def on_headers_complete(self) -> None:
        parser, response = self._parser, self._response
        status = parser.get_status_code()
        if status >= 200 and response is not None:  # the others are about the reply that follows
            self._keeps_alive = parser.should_keep_alive() and parser.get_http_version() == "1.1"
            response.begin(status, self._content_type)

    def on_chunk_header(self) -> None:
        self._is_between_chunks = False

    def on_chunk_complete(self) -> None:
        self._is_between_chunks = True

    def on_message_complete(self) -> None:
        response = self._response
        if response is not None and response.status > 0:
            self._is_complete = response.is_whole = True


def _head_too_large() -> EngineError:
    return EngineError(f"the engine sent a head of more than {MAX_HEAD_BYTES} bytes")
