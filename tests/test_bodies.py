"""Bodies over the limit and packed ones, over real connections."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from functools import partial

import httpx
import pytest
import zstandard

from tests.conftest import Alone
from tests.each import each
from tests.fake_engine import whole
from vllama import bodies, framing

LIMIT = 2**20
BODY = json.dumps({"model": "demo", "system": "x" * 3000}).encode()
TEXT = "the request's body is larger than 1 MiB: send less, or raise max_body_mb (VLLAMA_MAX_BODY_MB) on the server"


@pytest.fixture
async def api(alone: Alone, empty_app: tuple) -> httpx.AsyncClient:
    """A gateway that takes 1 MiB."""
    empty_app[0].state.gateway.max_body = LIMIT
    return alone.api


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_of_just_the_limit(api: httpx.AsyncClient) -> None:
    assert (await api.post("/api/show", content=BODY.ljust(LIMIT))).status_code == 200
    assert (await api.post("/api/show", content=chunks(BODY, b" " * (LIMIT - len(BODY))))).status_code == 200


@pytest.mark.parametrize("announced", [True, False], ids=["with its length", "in chunks"])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/api/show", {"error": TEXT}),
        ("/v1/embeddings", {"error": {"message": TEXT, "type": "api_error", "param": None, "code": None}}),
    ],
)
async def test_a_body_over_the_limit(api: httpx.AsyncClient, path: str, error: object, announced: bool) -> None:
    content = b" " * (LIMIT + 1) if announced else chunks(b" " * LIMIT, b" ")
    reply = await api.post(path, content=content)
    assert (reply.status_code, reply.json(), reply.headers["connection"]) == (413, error, "close")


async def test_a_body_over_the_limit_in_anthropics_words(api: httpx.AsyncClient) -> None:
    reply = await api.post("/v1/messages", content=b" " * (LIMIT + 1))
    assert (reply.status_code, reply.json()["error"]) == (413, {"type": "request_too_large", "message": TEXT})


async def read_until_closed(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 5)


HEAD = f"POST /api/show HTTP/1.1\r\nHost: g\r\nContent-Length: {LIMIT + 1}\r\n"


async def test_a_length_over_the_limit_is_refused_before_the_body_is_read(api: httpx.AsyncClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
    writer.write(f"{HEAD}Expect: 100-continue\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 "), "and not 100 Continue"
    writer.close()


@pytest.mark.parametrize("sent", [0, LIMIT + 1], ids=["nothing more", "the rest"])
async def test_the_connection_is_closed_after_a_while(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    monkeypatch.setattr(framing, "LINGER_S", 5.0 if sent else 0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
    writer.write(f"{HEAD}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"connection: close" in head
    writer.write(b" " * sent)
    assert TEXT in json.loads(await read_until_closed(reader))["error"]
    writer.close()


async def test_a_client_that_sends_for_ever_is_cut_off(api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "LINGER_S", 0.05)
    _, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
    writer.write(b"POST /api/show HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_for_ever(writer), 5)
    writer.close()


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await writer.drain()


def zstd(data: bytes, level: int = 3) -> bytes:
    return zstandard.ZstdCompressor(level).compress(data)


def streamed_zstd(data: bytes) -> bytes:
    """As a client packs that does not know the length before."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


PACKERS = {"zstd": zstd, "gzip": partial(gzip.compress, mtime=0), "deflate": zlib.compress}


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        *((coding, pack(BODY)) for coding, pack in PACKERS.items()),
        ("ZSTD", zstd(BODY)),
        ("zstd", streamed_zstd(BODY)),
        ("zstd", zstd(BODY.ljust(LIMIT), 19)),
        ("identity", BODY),
        ("", BODY),
    ],
)
async def test_packed_bodies(api: httpx.AsyncClient, coding: str, packed: bytes) -> None:
    reply = await api.post("/api/show", content=packed, headers={"Content-Encoding": coding})
    assert (reply.status_code, reply.json()["system"]) == (200, "x" * 3000)


async def test_a_packed_body_reaches_the_engine_unpacked(api: httpx.AsyncClient, alone: Alone) -> None:
    alone.engine.script(whole({"model": "x", "choices": []}))
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
    content = zstd(json.dumps(body).encode())
    reply = await api.post("/v1/chat/completions", content=content, headers={"Content-Encoding": "zstd"})
    assert (reply.status_code, reply.json()["model"]) == (200, "demo")
    assert alone.engine.last_body["messages"] == body["messages"]


@pytest.mark.parametrize("coding", PACKERS)
async def test_an_empty_packed_body_is_a_missing_one(api: httpx.AsyncClient, coding: str) -> None:
    for content in (b"", PACKERS[coding](b"")):
        reply = await api.post("/api/show", content=content, headers={"Content-Encoding": coding})
        assert (reply.status_code, reply.json()) == (400, {"error": "missing request body"})


@pytest.mark.parametrize(("coding", "size"), [("zstd", 2**27), ("gzip", 2**24), ("deflate", 2**24)])
async def test_a_bomb(api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, coding: str, size: int) -> None:
    unpacked: list[int] = []
    make = bodies._UNPACKERS[coding]

    class Counting:
        """The unpacker, which notes how much it gave."""

        def __init__(self) -> None:
            self._unpacker = make()

        def __getattr__(self, name: str) -> object:
            return getattr(self._unpacker, name)

        def decompress(self, data: bytes) -> bytes:
            part = self._unpacker.decompress(data)
            unpacked.append(len(part))
            return part

    monkeypatch.setitem(bodies._UNPACKERS, coding, Counting)
    bomb = PACKERS[coding](b"x" * size)
    assert len(bomb) < LIMIT
    reply = await api.post("/api/show", content=bomb, headers={"Content-Encoding": coding})
    assert (reply.status_code, reply.json()["error"]) == (413, TEXT.replace("body is", "body, unpacked, is"))
    assert sum(unpacked) < size / 2, "most of it was never unpacked"


def damaged() -> Iterator[tuple[str, bytes, str]]:
    for coding, pack in PACKERS.items():
        packed = pack(BODY)
        yield coding, b"no such thing", f"the request's body is not {coding}, as its Content-Encoding says: "
        yield coding, packed[:-3], f"the request's body ends before its {coding} data does"
        yield coding, packed + b"more", f"the request's body goes on after its {coding} data"
        yield coding, packed + b" " * 5000, f"the request's body goes on after its {coding} data"
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=24)
    packed = zstandard.ZstdCompressor(compression_params=wide).compress(b"\0" * 2**24)
    yield "zstd", packed, "the request's body is not zstd, as its Content-Encoding says: "


@each(("coding", "packed", "error"), list(damaged()))
async def test_a_body_that_is_not_what_it_says(api: httpx.AsyncClient, coding: str, packed: bytes, error: str) -> None:
    reply = await api.post("/api/show", content=packed, headers={"Content-Encoding": coding})
    assert reply.status_code == 400
    assert reply.json()["error"].startswith(error)


@pytest.mark.parametrize("coding", ["br", "zstd, gzip", "compress", "\u00e9"])
async def test_a_coding_that_is_not_known(api: httpx.AsyncClient, coding: str) -> None:
    reply = await api.post("/api/show", content=BODY, headers={"Content-Encoding": coding.encode("latin-1")})
    text = f"Content-Encoding {coding!r} is not supported: send zstd, gzip, deflate or none"
    assert (reply.status_code, reply.json()) == (415, {"error": text})


async def test_many_large_bodies_one_after_another(api: httpx.AsyncClient) -> None:
    """Each on a connection that the one before left usable, or closed for good."""
    for size in (LIMIT, LIMIT + 1, LIMIT, 8 * LIMIT, LIMIT):
        reply = await api.post("/api/show", content=BODY.ljust(size))
        assert reply.status_code == (200 if size == LIMIT else 413)
