"""The connections to one engine: which one a request gets, and what becomes of those that nobody needs."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clock import Clock
from tests.engine.raw import Peer, RawServer, in_use
from vllama.engine import address as address_module
from vllama.engine import pool as pool_module
from vllama.engine.address import Address, read_address
from vllama.engine.command import KEEP_ALIVE_S
from vllama.engine.pool import IDLE_CONNECTION_S, MAX_IDLE, REPLY_TIMEOUT_S, TICK_S, Pool
from vllama.engine.response import Response
from vllama.errors import EngineError, EngineGoneError

HEAD = b"GET / HTTP/1.1\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RawServer]:
    monkeypatch.chdir(tmp_path_factory.mktemp("socket"))  # its own path may be too long for a socket
    async with RawServer(Path("s")).listening() as server:
        yield server


@pytest.fixture
async def pool(server: RawServer, clock: Clock) -> AsyncIterator[Pool]:
    pool = Pool(server.address, clock)
    yield pool
    pool.close()
    assert in_use(pool) == 0


async def whole(asking: Any) -> bytes:
    response = await asking
    return await response.read()


async def ask(pool: Pool, server: RawServer, peer: Peer | None = None) -> Peer:
    """A request that is answered, by a peer that is known or else by a new one."""
    asking = asyncio.create_task(whole(pool.ask(HEAD)))
    peer = peer or await server.accept()
    assert await peer.head() == HEAD
    peer.answer(b"Hello")
    assert await asyncio.wait_for(asking, 20) == b"Hello"
    return peer


async def test_a_connection_is_used_again(pool: Pool, server: RawServer) -> None:
    peer = await ask(pool, server)
    await ask(pool, server, peer)
    assert (server.accepted, in_use(pool)) == (1, 0)


async def begin(pool: Pool, server: RawServer) -> tuple[Peer, Response]:
    asking = asyncio.create_task(pool.ask(HEAD))
    peer = await server.accept()
    await peer.head()
    peer.say(CHUNKED)
    return peer, await asyncio.wait_for(asking, 20)


async def end(peer: Peer, response: Response) -> None:
    peer.say(b"0\r\n\r\n")
    await response.read()


async def test_the_one_used_last_is_used_next(pool: Pool, server: RawServer) -> None:
    one, two = await begin(pool, server), await begin(pool, server)
    assert in_use(pool) == 2
    await end(*two)
    await end(*one)
    await ask(pool, server, one[0])
    await ask(pool, server, one[0])
    assert server.accepted == 2


async def test_idle_connections_are_not_kept_for_ever(pool: Pool, server: RawServer, clock: Clock) -> None:
    one, two = await begin(pool, server), await begin(pool, server)
    await end(*one)
    clock.now += IDLE_CONNECTION_S / 2
    await end(*two)
    clock.now += IDLE_CONNECTION_S / 2
    pool.look_after()
    await one[0].left()
    await ask(pool, server, two[0])
    clock.now += IDLE_CONNECTION_S
    third = await ask(pool, server)
    await two[0].left()
    assert third is not two[0]


def test_we_close_idle_connections_before_our_engines_do() -> None:
    assert IDLE_CONNECTION_S + TICK_S < KEEP_ALIVE_S


async def test_no_more_idle_connections_than_one_may_need(
    pool: Pool, server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_IDLE", 1)
    one, two = await begin(pool, server), await begin(pool, server)
    await end(*one)
    await end(*two)
    await two[0].left()
    await ask(pool, server, one[0])


async def test_a_connection_closed_while_idle_is_forgotten(pool: Pool, server: RawServer) -> None:
    peer = await ask(pool, server)
    peer.close()
    await peer.left()
    for _ in range(3):
        await asyncio.sleep(0)
    await ask(pool, server)


@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_connection_closed_under_a_request_is_replaced_once(
    pool: Pool, server: RawServer, by_reset: bool
) -> None:
    peer = await ask(pool, server)
    asking = asyncio.create_task(whole(pool.ask(HEAD)))
    if by_reset:
        await peer.head()
        peer.writer.transport.abort()
    else:
        peer.close()
    second = await server.accept()
    assert await second.head() == HEAD
    second.close()
    with pytest.raises(EngineGoneError, match="cannot be reached"):
        await asyncio.wait_for(asking, 20)
    assert server.accepted == 2


async def test_a_new_connection_that_is_closed_is_not_replaced(pool: Pool, server: RawServer) -> None:
    asking = asyncio.create_task(pool.ask(HEAD))
    (await server.accept()).close()
    with pytest.raises(EngineGoneError, match="cannot be reached"):
        await asyncio.wait_for(asking, 20)
    assert server.accepted == 1


async def test_a_reply_that_began_is_not_asked_for_again(pool: Pool, server: RawServer) -> None:
    peer = await ask(pool, server)
    asking = asyncio.create_task(pool.ask(HEAD))
    await peer.head()
    peer.say(b"H")
    peer.close()
    with pytest.raises(EngineGoneError, match="broke off"):
        await asyncio.wait_for(asking, 20)
    assert server.accepted == 1


async def test_warm_connections_are_there_for_a_burst(pool: Pool, server: RawServer) -> None:
    await pool.warm(3)
    await pool.warm(2)
    assert in_use(pool) == 0
    peers = [await server.accept() for _ in range(3)]
    asking = [asyncio.create_task(whole(pool.ask(HEAD))) for _ in range(4)]
    for peer in [*peers, await server.accept()]:
        await peer.head()
        peer.answer(b"Hello")
    assert await asyncio.wait_for(asyncio.gather(*asking), 20) == 4 * [b"Hello"]


async def test_many_at_once(pool: Pool, server: RawServer) -> None:
    async def serve(peer: Peer) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await peer.head()
                peer.say(CHUNKED + b"3\r\nabc\r\n")
                await asyncio.sleep(0)
                peer.say(b"3\r\ndef\r\n0\r\n\r\n")

    async def accept() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(serve(await server.accept()))

    accepting = asyncio.create_task(accept())
    for _ in range(2):
        assert set(await asyncio.gather(*(whole(pool.ask(HEAD)) for _ in range(300)))) == {b"abcdef"}
    assert in_use(pool) == 0
    assert len(pool._idle) <= MAX_IDLE
    accepting.cancel()
    await asyncio.wait({accepting})


async def test_who_holds_back_stalls_the_engine_and_nobody_else(pool: Pool, server: RawServer) -> None:
    (slow, response), pace = await begin(pool, server), asyncio.get_running_loop().create_future()
    taken = 0

    def take(data: bytes) -> "asyncio.Future[None]":
        nonlocal taken
        taken += len(data)
        return pace

    pouring = asyncio.create_task(response.pour(take))
    size = 2**24
    slow.say(b"%x\r\n%s\r\n0\r\n\r\n" % (size, size * b"x"))
    draining = asyncio.create_task(slow.writer.drain())
    peer = await ask(pool, server)
    for _ in range(20):
        await ask(pool, server, peer)
    assert not draining.done()
    assert 0 < taken < 2**20
    pace.set_result(None)
    await asyncio.wait_for(asyncio.gather(pouring, draining), 20)
    assert taken == size


async def test_silence_ends(pool: Pool, server: RawServer, clock: Clock) -> None:
    _, response = await begin(pool, server)
    pool.look_after()
    clock.now += REPLY_TIMEOUT_S - 1
    pool.look_after()
    assert in_use(pool) == 1
    clock.now += 1
    pool.look_after()
    with pytest.raises(EngineError, match="did not answer in time"):
        await response.read()
    assert in_use(pool) == 0


async def test_somebody_looks_after_them_as_long_as_there_are_any(
    pool: Pool, server: RawServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "TICK_S", 0.0)
    peer = await ask(pool, server)
    clock.now += IDLE_CONNECTION_S
    await peer.left()
    assert pool._ticker is None


async def test_closing_ends_everything(pool: Pool, server: RawServer) -> None:
    idle = await ask(pool, server)
    waiting = asyncio.create_task(pool.ask(HEAD))
    await idle.head()
    _, response = await begin(pool, server)
    pool.close()
    for failing in (waiting, response.read(), pool.ask(HEAD), pool.warm(1)):
        with pytest.raises(EngineGoneError, match="the engine was stopped"):
            await asyncio.wait_for(failing, 20)
    assert in_use(pool) == 0
    assert pool._ticker is None


# Connecting


@pytest.fixture
def full(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server that does not accept, and whose backlog is full."""
    monkeypatch.chdir(tmp_path_factory.mktemp("socket"))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind("s")
        listener.listen(0)
        first.connect("s")
        yield listener


async def test_a_full_backlog_is_waited_for(full: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_module, "_BACKLOG_S", 0.0)
    pool = Pool(Address(socket="s"))
    asking = asyncio.create_task(pool.ask(HEAD))
    for _ in range(5):
        await asyncio.sleep(0)
    full.accept()[0].close()
    await pool_has_one(pool)
    with full.accept()[0] as peer:
        peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await asyncio.wait_for(asking, 20)).status == 204
    pool.close()


async def pool_has_one(pool: Pool) -> None:
    async with asyncio.timeout(20):
        while not in_use(pool):
            await asyncio.sleep(0)


async def test_connecting_has_a_deadline(full: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CONNECT_S", 0.05)
    with pytest.raises(EngineError, match="did not answer in time"):
        await asyncio.wait_for(Pool(Address(socket="s")).ask(HEAD), 20)


async def test_closing_ends_connecting(full: socket.socket) -> None:
    pool = Pool(Address(socket="s"))
    asking = asyncio.create_task(pool.ask(HEAD))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pool.close()
    with pytest.raises(EngineGoneError, match="the engine was stopped"):
        await asyncio.wait_for(asking, 20)


async def test_who_is_cancelled_while_connecting_leaves_nothing(full: socket.socket) -> None:
    pool = Pool(Address(socket="s"))
    asking = asyncio.create_task(pool.ask(HEAD))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    assert (in_use(pool), pool._connecting) == (0, set())


@pytest.mark.parametrize(
    ("url", "expected", "authority"),
    [
        ("unix:/run/a b.sock", Address(socket="/run/a b.sock"), "engine"),
        ("http://localhost:8000", Address("localhost", 8000), "localhost:8000"),
        ("HTTP://Localhost/", Address("localhost", 80), "localhost"),
        ("https://example.com/v1 b/", Address("example.com", 443, True, prefix="/v1%20b"), "example.com"),
        ("https://example.com:80", Address("example.com", 80, True), "example.com:80"),
        ("http://[::1]:8000/a%20b", Address("::1", 8000, prefix="/a%20b"), "[::1]:8000"),
        ("http://bücher.example", Address("xn--bcher-kva.example", 80), "xn--bcher-kva.example"),
    ],
)
def test_addresses(url: str, expected: Address, authority: str) -> None:
    address = read_address(url)
    assert (address, address.authority) == (expected, authority)


@pytest.mark.parametrize("url", ["no address", "", "ftp://host", "http://", "http://host:99999", f"http://{'a' * 64}"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(EngineGoneError, match=r"cannot be reached \(.* is no address\)"):
        read_address(url)


CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""Of an authority that nobody trusts, for localhost, and its key: made for these tests by
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj /CN=localhost -addext
subjectAltName=DNS:localhost"""


async def test_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    size = 2**20

    async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (size, size * b"x"))

    server = await asyncio.start_server(welcome, "localhost", 0, ssl=context, family=socket.AF_INET)
    pool = Pool(read_address(f"https://localhost:{server.sockets[0].getsockname()[1]}"))
    try:
        with pytest.raises(EngineGoneError, match="certificate verify failed"):
            await asyncio.wait_for(pool.ask(HEAD), 20)
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        trusting.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME: clocks may be wrong where tests run
        monkeypatch.setattr(address_module, "_tls", lambda: trusting)
        for _ in range(2):
            assert len(await asyncio.wait_for(whole(pool.ask(HEAD)), 20)) == size
    finally:
        pool.close()
        server.close()
