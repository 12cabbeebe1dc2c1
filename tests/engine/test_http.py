"""One connection to an engine: whatever the engine says, in whatever pieces, and however it ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from tests.engine.raw import Line
from vllama.engine.form import Form
from vllama.engine.http import MAX_HEAD_BYTES, UnansweredError
from vllama.engine.response import Response
from vllama.errors import EngineError, EngineGoneError

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: Text/Event-Stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = OK + b"content-type: application/json\r\ncontent-length: 12\r\n\r\nHello, world"
UNTIL_CLOSED = OK + b"Content-Type: text/plain\r\n\r\nHello, world"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n"
REPLIES = {
    "chunked": (CHUNKED + b"5\r\nHello\r\n7;a=b\r\n, world\r\n0\r\n\r\n", "text/event-stream", b"Hello, world"),
    "trailers": (CHUNKED + b"C\r\nHello, world\r\n0\r\nA: b\r\nC: d\r\n\r\n", "text/event-stream", b"Hello, world"),
    "sized": (SIZED, "application/json", b"Hello, world"),
    "until closed": (UNTIL_CLOSED, "text/plain", b"Hello, world"),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", "application/octet-stream", b""),
    "interim": (INTERIM + SIZED, "application/json", b"Hello, world"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "application/octet-stream", b""),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n", "application/octet-stream", b""),
    "refusal": (SIZED.replace(b"200 OK", b"503 "), "application/json", b"Hello, world"),
}
every_reply = pytest.mark.parametrize("kind", REPLIES)


async def collect(asking: "asyncio.Task[Response]", pieces: list[bytes], way: str) -> Response:
    response = await asking
    if way == "pour":
        await response.pour(pieces.append)
    else:
        while data := await response.next():
            pieces.append(data)
    assert response.received == len(b"".join(pieces))
    return response


async def exchange(*said: bytes, way: str = "pour", hangs_up: bool = False) -> tuple[Line, Response, bytes]:
    """What becomes of what the engine says; from read to read, the reader has its turn."""
    line, pieces = Line(), list[bytes]()
    reading = asyncio.create_task(collect(await line.ask(), pieces, way))
    for piece in said:
        line.say(piece)
        await asyncio.sleep(0)
    if hangs_up:
        line.hang_up()
    return line, await asyncio.wait_for(reading, 20), b"".join(pieces)


@every_reply
@pytest.mark.parametrize("way", ["pour", "next"])
async def test_a_reply_cut_anywhere(kind: str, way: str) -> None:
    reply, content_type, body = REPLIES[kind]
    ways_to_cut = [[reply], [reply[n : n + 1] for n in range(len(reply))]]
    ways_to_cut += [[reply[:cut], reply[cut:]] for cut in range(1, len(reply))]
    for pieces in ways_to_cut:
        line, response, read = await exchange(*pieces, way=way, hangs_up=kind == "until closed")
        assert (response.content_type, read) == (content_type, body), pieces
        assert response.status == int(reply.removeprefix(INTERIM)[9:12])
        assert (line.free, line.wire.is_aborted) == (kind != "until closed", False)


@every_reply
@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "Connection reset by peer")], ids=["eof", "reset"])
async def test_a_reply_that_breaks_off_anywhere(kind: str, error: Exception | None) -> None:
    reply, _, body = REPLIES[kind]
    for length in range(len(reply)):
        line, pieces = Line(), list[bytes]()
        reading = asyncio.create_task(collect(await line.ask(), pieces, "pour"))
        line.say(*[reply[:length]] if length else [])
        line.hang_up(error)
        if kind == "until closed" and b"\r\n\r\n" in reply[:length] and error is None:
            await reading  # nobody can tell
        else:
            with pytest.raises(EngineGoneError, match="broke off" if length else "cannot be reached"):
                await reading
            assert isinstance(reading.exception(), UnansweredError) is (length == 0)
        assert body.startswith(b"".join(pieces))
        if kind in ("sized", "until closed"):
            assert b"".join(pieces) == reply[:length].partition(b"\r\n\r\n")[2], "what came is given first"
        assert not line.free


async def test_asked_again() -> None:
    line = Line()
    for kind in [kind for kind in REPLIES if kind != "until closed"]:
        reply, content_type, body = REPLIES[kind]
        asking = await line.ask()
        line.say(reply)
        response = await asking
        assert (response.content_type, await response.read()) == (content_type, body)
        assert await response.read() == body, "once more"
        assert line.free


@pytest.mark.parametrize(
    "reply",
    [
        SIZED.replace(b"1.1", b"1.0"),
        SIZED.replace(b"1.1", b"1.0").replace(b"content-type", b"Connection: keep-alive\r\ncontent-type"),
        SIZED.replace(b"content-type", b"Connection: close\r\ncontent-type"),
        SIZED + b"HTTP/1.1 200 OK\r\n",
        SIZED + b"H",
        SIZED + b"and more",
        REPLIES["204"][0] + b"Hello",
    ],
)
async def test_a_connection_that_is_not_asked_again(reply: bytes) -> None:
    line, _, body = await exchange(reply)
    assert body == (b"" if b"204" in reply else b"Hello, world"), "the reply is whole"
    assert (line.free, line.is_lost, line.wire.is_aborted) == (False, True, True)


async def test_an_engine_that_speaks_without_being_asked() -> None:
    line, _, _ = await exchange(SIZED)
    assert line.free
    line.say(SIZED)
    assert (line.free, line.wire.is_aborted) == (False, True)


async def test_a_request_that_was_not_read_to_its_end_is_not_followed() -> None:
    line = Line()
    asking = await line.ask(b"x" * 100)
    line.wire.unsent = 50
    line.say(SIZED)
    assert await (await asking).read() == b"Hello, world"
    assert line.wire.is_aborted


async def test_a_connection_that_was_closed_before_it_was_asked() -> None:
    line = Line()
    line.wire.abort()
    with pytest.raises(UnansweredError):
        await (await line.ask())


@pytest.mark.parametrize(
    "head",
    [
        OK + b"A: " + MAX_HEAD_BYTES * b"x",
        OK + b"A: " + MAX_HEAD_BYTES * b"x" + b"\r\n\r\n",
        OK + 2 * (b"A: " + (MAX_HEAD_BYTES // 2) * b"x" + b"\r\n"),
        OK + (MAX_HEAD_BYTES // 4) * b"A: b\r\n",
        (MAX_HEAD_BYTES // 8) * b"HTTP/1.1 100 Continue\r\nA: bcdefgh\r\n\r\n",
        b"HTTP/1.1 200 " + (MAX_HEAD_BYTES + 1) * b"x",
    ],
)
@pytest.mark.parametrize("size", [2**10, 2**30])
async def test_a_head_that_is_too_large(head: bytes, size: int) -> None:
    line = Line()
    asking = await line.ask()
    line.say(*(head[start : start + size] for start in range(0, len(head), size)))
    with pytest.raises(EngineError, match="a head of more than 65536 bytes"):
        await asyncio.wait_for(asking, 20)
    assert line.wire.is_aborted


async def test_trailers_that_are_too_large() -> None:
    with pytest.raises(EngineError, match="a head of more than 65536 bytes"):
        await exchange(CHUNKED + b"1\r\nx\r\n0\r\n" + (MAX_HEAD_BYTES // 4) * b"A: b\r\n")


async def test_a_large_head_that_is_not_too_large() -> None:
    await exchange(SIZED.replace(b"\r\n\r\n", b"\r\nA: " + 60_000 * b"x" + b"\r\n\r\n"))


@pytest.mark.parametrize(
    ("said", "before"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", b""),
        (b"\x15\x03\x01\x00\x02\x02\x16", b""),
        (b"HTTP/1.1 abc\r\n\r\n", b""),
        (b"HTTP/2 200 OK\r\n\r\n", b""),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b""),
        (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", b""),
        (OK + b"Content-Length: -3\r\n\r\nabc", b""),
        (CHUNKED + b"5\r\nHello\r\nnonsense\r\n", b"Hello"),
        (CHUNKED + b"5\r\nHello, world", b"Hello"),
    ],
)
async def test_what_is_not_http(said: bytes, before: bytes) -> None:
    line, pieces = Line(), list[bytes]()
    reading = asyncio.create_task(collect(await line.ask(), pieces, "next"))
    line.say(said)
    with pytest.raises(EngineError, match=r"the engine's server does not speak HTTP \(.+\)") as raised:
        await asyncio.wait_for(reading, 20)
    assert not isinstance(raised.value, EngineGoneError)
    assert b"".join(pieces) == before
    assert line.wire.is_aborted


# Forms


class Pieces(Form):
    """A form whose pieces come as they are asked for."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self.left = list(pieces)
        self.is_closed = False

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            while self.left:
                yield self.left.pop(0)
        finally:
            self.is_closed = True


async def test_a_form_is_sent_at_the_engines_pace() -> None:
    line, form = Line(), Pieces(b"a", b"b", b"c")
    line.connection.pause_writing()
    asking = await line.ask(form)
    assert (bytes(line.wire.written), form.left) == (b"GET / HTTP/1.1\r\n\r\n", [b"b", b"c"])
    line.connection.resume_writing()
    await asyncio.sleep(0)
    assert (bytes(line.wire.written)[-3:], form.is_closed) == (b"abc", True)
    line.say(SIZED)
    assert await (await asking).read() == b"Hello, world"
    assert line.free


@pytest.mark.parametrize("whole", [True, False])
async def test_a_reply_ends_the_sending_of_a_form(whole: bool) -> None:
    line, form = Line(), Pieces(b"a", b"b", b"c")
    line.connection.pause_writing()
    asking = await line.ask(form)
    line.say(SIZED if whole else SIZED[:-3])
    response = await asyncio.wait_for(asking, 20)
    assert (form.left, form.is_closed) == ([b"b", b"c"], True)
    if not whole:
        line.say(SIZED[-3:])
    assert await response.read() == b"Hello, world"
    assert (line.free, line.wire.is_aborted) == (False, True)


async def test_an_engine_that_hangs_up_while_a_form_is_sent() -> None:
    line, form = Line(), Pieces(b"a", b"b", b"c")
    line.connection.pause_writing()
    asking = await line.ask(form)
    line.hang_up()
    with pytest.raises(UnansweredError):
        await asyncio.wait_for(asking, 20)
    assert form.is_closed


async def test_cancelled_while_a_form_is_sent() -> None:
    line, form = Line(), Pieces(b"a", b"b", b"c")
    line.connection.pause_writing()
    asking = await line.ask(form)
    asking.cancel()
    await asyncio.wait({asking})
    assert (form.is_closed, line.wire.is_aborted) == (True, True)


# Chunks that need no parser


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


class Taker:
    """Takes texts that begin with a "t": at once, where they come alone. given: all of them, in their order."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.given: list[bytes] = []
        self.expressed: list[bytes] = []

    def take(self, data: bytes) -> None:
        self.given.append(data)
        self.response.express = self.express

    def express(self, data: bytes) -> bool:
        if not data.startswith(b"t"):
            return False
        self.given.append(data)
        self.expressed.append(data)
        return True


@contextlib.asynccontextmanager
async def taking(head: bytes = CHUNKED) -> AsyncIterator[tuple[Line, Taker]]:
    line = Line()
    asking = await line.ask()
    line.say(head)
    taker = Taker(await asking)
    pouring = asyncio.create_task(taker.response.pour(taker.take))
    await asyncio.sleep(0)
    yield line, taker
    if not line.wire.is_aborted:
        line.say(b"0\r\n\r\n")
    await asyncio.wait_for(pouring, 20)


async def test_a_chunk_that_comes_alone_needs_no_parser() -> None:
    async with taking() as (line, taker):
        line.say(chunk(b"t1"))
        assert (taker.given, taker.expressed) == ([b"t1"], []), "nothing is known yet"
        line.say(chunk(b"t2"), chunk(b"x"), chunk(b"t3"), chunk(b"t" * 300))
    assert taker.given == [b"t1", b"t2", b"x", b"t3", b"t" * 300]
    assert taker.expressed == [b"t2", b"t3", b"t" * 300]
    assert line.free


@pytest.mark.parametrize(
    "said",
    [
        [b"2\r\nt", b"2\r\n"],
        [b"2\r\nt2", b"\r\n"],
        [b"2\r", b"\nt2\r\n"],
        [b"2", b"\r\nt2\r\n"],
        [b"02\r\nt2\r\n"],
        [b"2;a=b\r\nt2\r\n"],
        [chunk(b"t2") + b"1\r\n", b"x\r\n"],
        [chunk(b"t2") + b"5", b"\r\nx" + b"\r\nt\r" + b"\r\n"],
        [chunk(b"t2") + chunk(b"x")],
        [chunk(b"t2") + b"2", b"2\r\nt2\r\n", b"x" * 30 + b"\r\n"],
    ],
)
async def test_a_chunk_in_pieces_or_in_company_is_parsed(said: list[bytes]) -> None:
    async with taking() as (line, taker):
        line.say(chunk(b"t1"), *said)
        assert taker.expressed == []
        line.say(chunk(b"t3"))
        assert taker.expressed == [b"t3"]
    whole = b"".join(taker.given)
    assert whole.startswith(b"t1t2")
    assert whole.endswith(b"t3")


async def test_what_looks_like_a_chunk_within_one() -> None:
    """The end of a piece says nothing, and neither does the next one."""
    inside = b"a\r\n" + chunk(b"t") + chunk(b"t")
    async with taking() as (line, taker):
        line.say(chunk(b"t1"), b"%x\r\na\r\n" % len(inside), chunk(b"t"), chunk(b"t"), b"\r\n")
        assert b"".join(taker.given) == b"t1" + inside
        assert taker.expressed == []


async def test_what_looks_like_a_chunk_in_a_reply_of_a_known_size() -> None:
    text = chunk(b"t") + chunk(b"t")
    async with taking(OK + b"Content-Length: %d\r\n\r\n" % (2 * len(text))) as (line, taker):
        line.say(text, text)
        assert (b"".join(taker.given), taker.expressed) == (text + text, [])
        line.wire.is_aborted = True  # nothing is missing


async def test_a_chunk_does_not_overtake_what_waits() -> None:
    async with taking() as (line, taker):
        line.say(chunk(b"t1"))
        taker.response.wake()  # whoever takes has his turn later
        line.say(chunk(b"t2"))  # with nothing before it
        line.say(chunk(b"x"), chunk(b"t3"), chunk(b"t4"))
        assert taker.expressed == [b"t2"]
    assert b"".join(taker.given) == b"t1t2xt3t4"


async def test_a_chunk_for_nobody() -> None:
    with pytest.raises(EngineGoneError, match="broke off"):  # noqa: PT012 - at the context's end
        async with taking() as (line, taker):
            line.say(chunk(b"t1"))
            taker.response.close()
            line.connection.data_received(chunk(b"t2"))  # a transport may have had it already
    assert taker.given == [b"t1"]


async def test_a_stream_of_such_chunks_is_not_silent() -> None:
    async with taking() as (line, _):
        assert not line.connection.is_stuck(0.0, 10.0)
        line.say(chunk(b"t1"))
        for second in range(0, 60, 6):
            line.say(chunk(b"t2"))
            assert not line.connection.is_stuck(float(second), 10.0)
        assert line.connection.is_stuck(64.0, 10.0)
