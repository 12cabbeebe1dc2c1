"""One connection to an engine: whatever the engine says, in whatever pieces, and however it ends."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.engine.raw import Line
from vllama.engine.form import Form
from vllama.engine.http import MAX_HEAD_BYTES, UnansweredError
from vllama.engine.response import HIGH_WATER_BYTES, Response
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


# At whose pace


async def begin(line: Line) -> Response:
    asking = await line.ask()
    line.say(CHUNKED)
    return await asking


def chunk(*texts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(text), text) for text in texts)


async def pouring(response: Response, take: Any) -> "asyncio.Task[None]":
    task = asyncio.create_task(response.pour(take))
    await asyncio.sleep(0)
    return task


async def test_what_is_read_is_given_at_once_and_together() -> None:
    line, taken = Line(), list[bytes]()
    response = await begin(line)
    line.say(chunk(b"before"))
    task = await pouring(response, taken.append)
    line.say(chunk(b"a", b"b", b"c"))
    assert taken == [b"before", b"abc"], "without a turn of the event loop"
    line.say(chunk(b"d")[:-1], b"\n" + chunk(b"e") + b"0\r\n\r\n")
    assert taken == [b"before", b"abc", b"d", b"e"]
    assert not task.done()
    await task


@pytest.mark.parametrize("is_first", [False, True])
async def test_a_taker_who_holds_back(is_first: bool) -> None:
    line, taken = Line(), list[bytes]()
    response = await begin(line)
    pace = asyncio.get_running_loop().create_future()

    def take(data: bytes) -> "asyncio.Future[None] | None":
        taken.append(data)
        return pace if len(taken) == 1 else None

    if is_first:
        line.say(chunk(b"a"))
    task = await pouring(response, take)
    if not is_first:
        line.say(chunk(b"a"))
    assert (taken, line.wire.is_reading_) == ([b"a"], False)
    line.say(chunk(b"b"))  # a transport may have had it already
    line.say(chunk(b"c") + b"0\r\n\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    assert taken == [b"a"]
    pace.set_result(None)
    await asyncio.wait_for(task, 20)
    assert (taken, line.wire.is_reading_, line.free) == ([b"a", b"bc"], True, True)


async def test_reading_goes_on_once_the_taker_is_ready() -> None:
    line, taken = Line(), list[bytes]()
    response = await begin(line)
    paces = [asyncio.get_running_loop().create_future() for _ in range(2)]

    def take(data: bytes) -> "asyncio.Future[None]":
        taken.append(data)
        return paces[len(taken) - 1]

    task = await pouring(response, take)
    for number, pace in enumerate(paces):
        line.say(chunk(b"%d" % number))
        assert not line.wire.is_reading_
        await asyncio.sleep(0)
        pace.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert line.wire.is_reading_
    line.say(b"0\r\n\r\n")
    await asyncio.wait_for(task, 20)
    assert taken == [b"0", b"1"]


async def test_who_holds_back_is_heard_though_somebody_else_woke_the_reader() -> None:
    line, taken = Line(), list[bytes]()
    response = await begin(line)
    pace = asyncio.get_running_loop().create_future()

    def take(data: bytes) -> "asyncio.Future[None] | None":
        taken.append(data)
        return pace if len(taken) == 1 else None

    task = await pouring(response, take)
    line.connection.resume_writing()
    line.say(chunk(b"a"))
    await asyncio.sleep(0)
    line.say(chunk(b"b") + b"0\r\n\r\n")
    await asyncio.sleep(0)
    assert taken == [b"a"]
    pace.set_result(None)
    await asyncio.wait_for(task, 20)
    assert taken == [b"a", b"b"]


@pytest.mark.parametrize("is_first", [False, True])
async def test_what_the_taker_raises_is_raised(is_first: bool) -> None:
    line = Line()
    response = await begin(line)

    def take(data: bytes) -> None:
        raise LookupError(data)

    if is_first:
        line.say(chunk(b"a"))
    task = await pouring(response, take)
    if not is_first:
        line.say(chunk(b"a"))
        assert not line.wire.is_reading_
    with pytest.raises(LookupError, match="a"):
        await asyncio.wait_for(task, 20)
    response.close()
    assert line.wire.is_aborted


async def test_a_taker_who_closes_the_reply() -> None:
    line = Line()
    response = await begin(line)
    task = await pouring(response, lambda _: response.close())
    line.say(chunk(b"a") + b"0\r\n\r\n")
    with pytest.raises(EngineGoneError, match="broke off"):
        await asyncio.wait_for(task, 20)
    assert (line.free, line.wire.is_aborted) == (False, True)


async def test_what_nobody_takes_is_bounded() -> None:
    line = Line()
    response = await begin(line)
    quarter = HIGH_WATER_BYTES // 4 * b"x"
    for _ in range(4):
        line.say(chunk(quarter))
        assert line.wire.is_reading_
    line.say(chunk(quarter))
    assert not line.wire.is_reading_
    assert await response.next() == 5 * quarter
    assert line.wire.is_reading_


async def test_a_whole_reply_that_nobody_took_leaves_the_connection_free() -> None:
    line = Line()
    response = await begin(line)
    line.say(chunk(HIGH_WATER_BYTES * b"x", b"y") + b"0\r\n\r\n")
    assert (line.free, line.wire.is_reading_) == (True, True)
    assert len(await response.read()) == HIGH_WATER_BYTES + 1


@pytest.mark.parametrize("way", ["begun", "next", "read"])
async def test_who_is_cancelled_leaves_nothing(way: str) -> None:
    line = Line()
    if way == "begun":
        task: asyncio.Task[Any] = await line.ask()
    else:
        response = await begin(line)
        task = asyncio.create_task(getattr(response, way)())
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert line.wire.is_aborted is (way == "begun"), "a reply is closed by who has it"
    line.say(chunk(b"late"))


async def test_cancelled_when_the_head_has_come() -> None:
    line = Line()
    asking = await line.ask()
    line.say(CHUNKED)
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()
    assert (line.wire.is_aborted, line.is_lost) == (True, True)


async def test_closed_in_the_middle() -> None:
    line = Line()
    response = await begin(line)
    line.say(chunk(b"a"))
    response.close()
    response.close()
    assert (line.wire.is_aborted, line.is_lost) == (True, True)
    assert await response.next() == b"a"
    with pytest.raises(EngineGoneError, match="broke off"):
        await response.next()


async def test_silence() -> None:
    line = Line()
    assert not line.connection.is_stuck(0.0, 10.0), "nothing was asked"
    assert not line.connection.is_stuck(99.0, 10.0)
    response = await begin(line)
    assert not line.connection.is_stuck(100.0, 10.0)
    assert not line.connection.is_stuck(109.0, 10.0)
    line.say(chunk(b"a"))
    assert not line.connection.is_stuck(111.0, 10.0)
    assert not line.connection.is_stuck(120.0, 10.0)
    line.connection.pause()
    assert not line.connection.is_stuck(130.0, 10.0), "the client keeps us waiting, not the engine"
    assert await response.next() == b"a"
    assert not line.connection.is_stuck(139.0, 10.0)
    assert line.connection.is_stuck(140.0, 10.0)


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
