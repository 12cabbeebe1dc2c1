"""An engine's reply: given to whoever takes it, at whose pace it is read, and what becomes of one that nobody wants."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.raw import Line
from vllama.engine.response import HIGH_WATER_BYTES, Response
from vllama.errors import EngineGoneError

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


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


def holding(taken: list[bytes]) -> "tuple[asyncio.Future[None], Callable[[bytes], asyncio.Future[None] | None]]":
    """Who waits for the future that is given, after the first that he takes."""
    pace = asyncio.get_running_loop().create_future()

    def take(data: bytes) -> "asyncio.Future[None] | None":
        taken.append(data)
        return pace if len(taken) == 1 else None

    return pace, take


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
    pace, take = holding(taken)
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
    pace, take = holding(taken)
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
    for number in range(5):
        line.say(chunk(quarter))
        await asyncio.sleep(0)  # the turn of others
        assert line.wire.is_reading_ is (number < 4)
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
