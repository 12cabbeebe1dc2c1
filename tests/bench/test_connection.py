"""The light HTTP client of the benchmarks, before servers that send given bytes."""

import asyncio
import contextlib

import pytest

from vllama.bench.connection import Connection, LostError, Target

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nonetwo"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwo"


class Server:
    """Answers each request with the next parts, each a write. asked: the requests. connections: how many there were."""

    def __init__(self, *answers, closes=False):
        self.answers, self.closes = list(answers), closes
        self.asked, self.connections = [], 0

    async def _talk(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.asked.append(head + await reader.readexactly(length))
                for part in self.answers.pop(0):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.closes:
                    break
        writer.close()

    @contextlib.asynccontextmanager
    async def on(self, path=None):
        if path is None:
            server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        else:
            server, url = await asyncio.start_unix_server(self._talk, path), f"unix:{path}"
        async with server:
            yield url


async def ask(connection, target):
    got = []
    status = await connection.ask(target.request("/x", b"{}"), lambda data, _now: got.append(data))
    return status, b"".join(got)


@pytest.mark.parametrize("answer", [CHUNKED, LENGTH], ids=["chunked", "length"])
async def test_an_answer_in_any_parts(answer):
    whole = [[answer[:at], answer[at:]] for at in range(1, len(answer))]
    server = Server(*whole, [answer[at : at + 1] for at in range(len(answer))])
    async with server.on() as url:
        connection, target = Connection(Target(url)), Target(url)
        for _ in range(len(answer)):
            assert await ask(connection, target) == (200, b"onetwo")
        connection.close()
    assert server.connections == 1


async def test_a_body_that_ends_with_its_connection():
    server = Server([UNTIL_CLOSED], [UNTIL_CLOSED], closes=True)
    async with server.on() as url:
        connection = Connection(Target(url))
        for _ in range(2):
            assert await ask(connection, Target(url)) == (200, b"onetwo")
    assert server.connections == 2


async def test_a_body_that_breaks_off_just_ends():
    server = Server([CHUNKED[: CHUNKED.index(b"two")]], [LENGTH], closes=True)
    async with server.on() as url:
        connection = Connection(Target(url))
        assert await ask(connection, Target(url)) == (200, b"one")
        assert await ask(connection, Target(url)) == (200, b"onetwo")
        connection.close()


@pytest.mark.parametrize(
    ("answer", "said"), [(b"", "the server closed the connection"), (b"hello\r\n\r\n", "what came is not HTTP")]
)
async def test_no_answer(answer, said):
    async with Server([answer], closes=True).on() as url:
        with pytest.raises(LostError, match=said):
            await ask(Connection(Target(url)), Target(url))


async def test_nobody_listens():
    async with Server().on() as url:
        pass
    with pytest.raises(LostError, match="could not connect"):
        await ask(Connection(Target(url)), Target(url))


async def test_what_is_sent(tmp_path):
    server = Server([LENGTH], [LENGTH])
    path = str(tmp_path / "s")
    async with server.on() as url:
        target = Target(f"{url}/below/", "secret")
        connection = Connection(target)
        await ask(connection, target)
        connection.close()
    async with server.on(path) as url:
        connection = Connection(Target(url))
        assert await ask(connection, Target(url)) == (200, b"onetwo")
        connection.close()
    first, second = server.asked
    assert first.startswith(b"POST /below/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer secret\r\n" in first
    assert first.endswith(b"\r\nContent-Length: 2\r\n\r\n{}")
    assert second.startswith(b"POST /x HTTP/1.1\r\nHost: engine\r\n")
    assert b"Authorization" not in second


async def test_leaving_closes_the_connection():
    server = Server([LENGTH[:-1]])
    async with server.on() as url:
        connection = Connection(Target(url))
        began = asyncio.Event()
        task = asyncio.create_task(connection.ask(Target(url).request("/", b""), lambda _data, _now: began.set()))
        await began.wait()
        transport = connection._transport
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.is_closing()
