"""A real `vllama serve` with too much to do, and too few files to open."""

import asyncio
import resource
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from aiohttp import web

from tests.fake_engine import FakeEngine, Stream, chat_events, model_list
from tests.served import SCRIPT, Served, environment, serve
from vllama import descriptors

BODY = b'{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "' + b"x" * 16_000 + b'"}]}'
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
VERSION = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
CROWD = 350
"""Three times."""


async def answer(request: web.Request) -> web.StreamResponse:
    if request.path == "/v1/models":
        return await model_list("demo")(request)
    return await Stream(*chat_events("Hel", finish=None)[:-1], end="hang")(request)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    """It never comes to an end with an answer."""
    engine = FakeEngine(answer)
    await engine.start()
    yield engine
    await engine.stop()


@asynccontextmanager
async def connection(served: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(served.url).port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def first_line(served: Served, stack: AsyncExitStack, request: bytes) -> bytes:
    """Of the reply, whose connection stays open as long as the stack."""
    reader, writer = await stack.enter_async_context(connection(served))
    writer.write(request)
    return await reader.readline()


def memory(served: Served) -> int:
    return psutil.Process(served.process.pid).memory_info().rss


@pytest.mark.skipif(descriptors.limit() < CROWD + 500, reason="this process may open too few files")
async def test_a_crowd_is_refused_and_not_remembered(engine: FakeEngine) -> None:
    with serve("--engine-url", engine.url, VLLAMA_MAX_REQUESTS="4") as served:
        async with asyncio.timeout(40), AsyncExitStack() as stack:
            assert (
                await asyncio.gather(*(first_line(served, stack, POST) for _ in range(4)))
                == [b"HTTP/1.1 200 OK\r\n"] * 4
            )
            sizes = []
            for _ in range(3):
                async with AsyncExitStack() as crowd:
                    lines = await asyncio.gather(*(first_line(served, crowd, POST) for _ in range(CROWD)))
                    assert set(lines) == {b"HTTP/1.1 503 Service Unavailable\r\n"}
                    assert await first_line(served, crowd, VERSION) == b"HTTP/1.1 200 OK\r\n"
                    assert engine.running == 4
                    sizes.append(memory(served))
            assert sizes[-1] - sizes[0] < CROWD * len(POST), "less than their bodies alone"


def limited(folder: Path, limits: str) -> Path:
    """vllama, started by a shell that lowers its limits."""
    script = folder / "limited"
    script.write_text(f'#!/bin/sh\n{limits}\nexec {SCRIPT} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


async def replies(served: Served, number: int) -> list[bytes]:
    """To as many connections at once: b"" where one is closed instead."""
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(connection(served)) for _ in range(number)]
        lines = []
        for reader, writer in pairs:
            writer.write(VERSION)
            try:
                lines.append(await reader.readline())
            except ConnectionError:
                lines.append(b"")
        return lines


async def until_answered(served: Served) -> None:
    """It takes a moment until what was closed here is closed there."""
    async with asyncio.timeout(20):
        while await replies(served, 1) == [b""]:
            await asyncio.sleep(0.01)


async def test_as_many_clients_as_there_are_files_for(tmp_path: Path) -> None:
    """16 files for itself, 16 for engines, and 32 for clients."""
    with serve(
        "--engine-url", "http://127.0.0.1:1", script=limited(tmp_path, "ulimit -Sn 40 && ulimit -Hn 64")
    ) as served:
        assert psutil.Process(served.process.pid).rlimit(resource.RLIMIT_NOFILE) == (64, 64)
        lines = await replies(served, 50)
        assert lines.count(b"HTTP/1.1 200 OK\r\n") == 32
        assert lines.count(b"") == 18
        await until_answered(served)
        assert "busy: the number of connections for which there are open files is reached, at 32" in served.log


async def test_it_goes_on_where_files_run_out_all_the_same(tmp_path: Path) -> None:
    code = (
        "import vllama.admission; vllama.admission.most_connections = lambda *_: 10**6;"
        "from vllama.server import run; from vllama.settings import Settings;"
        "run(Settings(engine_url='http://127.0.0.1:1', port=0), None)"
    )
    script = limited(tmp_path, "ulimit -n 64")
    script.write_text(script.read_text().replace(f'{SCRIPT} "$@"', f'{sys.executable} -c "{code}"'))
    served = Served([script], environment())
    try:
        served.wait_listening()
        lines = await replies(served, 80)
        assert lines.count(b"") > 16
        assert lines.count(b"HTTP/1.1 200 OK\r\n") > 16
        await until_answered(served)
    finally:
        served.close()
