"""What a stream's objects are told apart by, one object as a reply, and what happens when a client leaves before it."""

import asyncio
import contextlib

import pytest

from tests.asgi import Client, of_any_server  # noqa: F401
from vllama.errors import ApiError
from vllama.framing import EVENTS, LINES, STOPPING, ClientLeft, JSONResponse, framing_of, until_client_leaves

pytestmark = pytest.mark.usefixtures("of_any_server")


@pytest.mark.parametrize(
    "accepted",
    [b"text/event-stream", b"text/event-stream, application/x-ndjson;q=0", b"application/json, text/event-stream"],
)
def test_events_where_they_are_asked_for(accepted):
    assert framing_of(Client((b"accept", accepted)).request) is EVENTS


@pytest.mark.parametrize(
    "accepted",
    [
        *(b"*/*", b"application/json", b"application/x-ndjson", b"text/html", b"text/event-streams", b"text/*"),
        *(b"text/event-stream;q=0", b"application/json, Text/Event-Stream ; Q = 0.000 ; x=1", b"x/text/event-stream"),
        *(b"application/x-ndjson, text/event-stream", b"text/event-stream, Application/X-NDJSON ; q=0.5"),
    ],
)
def test_lines_are_what_everybody_else_gets(accepted):
    assert framing_of(Client((b"accept", accepted)).request) is LINES


def test_lines_without_a_wish():
    assert framing_of(Client().request) is LINES


def test_framed():
    assert (LINES.frame(b"{}"), EVENTS.frame(b"{}")) == (b"{}\n", b"data: {}\n\n")
    assert (LINES.media_type, EVENTS.media_type) == ("application/x-ndjson", "text/event-stream")
    assert LINES.failure("no \xfc") == '{"error":"no \xfc"}\n'.encode()
    assert EVENTS.failure("no") == b'data: {"error":"no"}\n\n'


async def test_work_is_done_while_the_client_waits():
    async def work():
        await asyncio.sleep(0)
        return 42

    assert await until_client_leaves(Client().request, work()) == 42


async def test_work_is_cancelled_when_the_client_leaves():
    client, cancelled = Client(), asyncio.Event()

    async def work():
        client.left.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(ClientLeft):
        await until_client_leaves(client.request, work())
    assert cancelled.is_set()


async def test_work_that_ends_as_the_client_leaves_counts():
    client = Client()

    async def work():
        client.left.set()
        return 42

    assert await until_client_leaves(client.request, work()) == 42


async def test_errors_of_work():
    async def work():
        raise KeyError("x")

    with pytest.raises(KeyError):
        await until_client_leaves(Client().request, work())


async def test_work_is_cancelled_with_its_caller():
    before, cancelled = asyncio.all_tasks(), asyncio.Event()

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.create_task(until_client_leaves(Client().request, work()))
    await settle()
    task.cancel()
    with pytest.raises(ApiError, match=STOPPING):
        await task
    assert cancelled.is_set()
    assert asyncio.all_tasks() == before


async def test_an_object():
    client = Client()
    await JSONResponse({"a": "ü", "b": None}, 404)(client.scope, client.receive, client.send)
    start, body = client.sent
    assert body["body"] == '{"a":"ü","b":null}'.encode()
    assert start["status"] == 404
    assert dict(start["headers"]) == {b"content-length": b"19", b"content-type": b"application/json; charset=utf-8"}


async def settle(steps=20):
    for _ in range(steps):
        await asyncio.sleep(0)


async def test_whoever_left_cancels_nothing_else():
    """Work that could not be stopped ends as the client leaves: nothing that follows is cancelled."""
    client = Client()

    async def work():
        client.left.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return 42

    assert await until_client_leaves(client.request, work()) == 42
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_the_server_stops_as_the_client_leaves():
    client = Client()

    async def work():
        client.left.set()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.Event().wait()

    task = asyncio.create_task(until_client_leaves(client.request, work()))
    with pytest.raises((ApiError, ClientLeft)):
        await task


async def test_a_time_limit_within_keeps_its_error():
    async def work():
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await until_client_leaves(Client().request, work())


@pytest.mark.parametrize("turns", range(6))
async def test_left_at_any_turn(turns):
    """The work is either done or cancelled, and the task goes on undisturbed."""
    client = Client()

    async def work():
        for turn in range(5):
            if turn == turns:
                client.left.set()
            await asyncio.sleep(0)
        return 42

    try:
        assert await until_client_leaves(client.request, work()) == 42
    except ClientLeft:
        assert turns < 5
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0
