"""The parts of the benchmark of the relay: they have to be right before they can tell whether anything else is."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks import _floor
from benchmarks._chart import Bars, add_option, draw, short
from benchmarks._load import Found, Spec, percentiles, run
from benchmarks._relay_report import panels, rows, tables
from benchmarks._synthetic import Connection, Plan, Script
from benchmarks._wire import Requests, post

CHAT = "/v1/chat/completions"


def body(plan: Plan, **more: object) -> str:
    return json.dumps({"messages": [{"role": "user", "content": str(plan)}], "stream": True, **more})


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[str]:
    path = str(tmp_path / "engine")
    async with await asyncio.get_running_loop().create_unix_server(Connection, path):
        yield path


@pytest.fixture
async def floor(engine: str, tmp_path: Path) -> AsyncIterator[str]:
    path = str(tmp_path / "floor")
    async with await asyncio.get_running_loop().create_unix_server(lambda: _floor.Client(engine), path):
        yield path


async def ask(path: str, request: bytes) -> tuple[bytes, list[bytes]]:
    """The head of a reply, and its chunks."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    head, chunks = await reader.readuntil(b"\r\n\r\n"), list[bytes]()
    while length := int(await reader.readline(), 16):
        chunks.append((await reader.readexactly(length + 2))[:-2])
    assert await reader.readline() == b"\r\n"
    writer.close()
    await writer.wait_closed()
    return head, chunks


def delta(event: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]
    return found


@pytest.mark.parametrize("interval", [0, 1])
async def test_the_synthetic_engine_says_what_was_recorded_but_for_ids_and_text(engine: str, interval: int) -> None:
    asked = body(Plan(40, interval), stream_options={"include_usage": True})
    head, chunks = await ask(engine, post(CHAT, asked.encode()))
    assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert b"\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n" in head
    script = Script.read()
    role, *tokens, finish, usage, done = chunks
    assert (len(role), len(finish)) == (len(script.role), len(script.finish))
    assert (len(usage), done) == (len(script.usage), script.done)
    assert delta(role) == {"role": "assistant", "content": ""}
    texts = [str(delta(token)["content"]) for token in tokens]
    assert [text.partition("@")[0] for text in texts] == [f"{number:05d}" for number in range(40)]
    assert {len({json.loads(event[6:])["id"] for event in chunks[:-1]})} == {1}


async def test_usage_is_for_those_who_ask_and_size_pads(engine: str) -> None:
    _, (_, token, finish, done) = await ask(engine, post(CHAT, body(Plan(1, 0, 50)).encode()))
    assert len(str(delta(token)["content"])) == 26 + 50
    assert (b'"finish_reason":"' in finish, done) == (True, b"data: [DONE]\n\n")


async def test_the_floor_makes_a_line_of_each_event(floor: str) -> None:
    head, chunks = await ask(floor, post("/api/chat", body(Plan(100)).encode()))
    assert b"\r\ncontent-type: application/x-ndjson\r\n" in head
    lines = b"".join(chunks).split(b"\n")
    assert (len(lines), lines[-2:]) == (1 + 100 + 1 + 1 + 1, [b"[DONE]", b""])
    assert [str(delta(line)["content"])[:6] for line in lines[1:101]] == [f"{number:05d}@" for number in range(100)]


@pytest.mark.parametrize("plan", [Plan(64), Plan(5, 1)])
async def test_clients_see_every_token_through_the_floor(floor: str, plan: Plan) -> None:
    found = await run(Spec(f"unix:{floor}", "/", body(plan), plan.tokens, connections=3, ramp=0.0, requests=4))
    assert (found.failures, found.answers, len(found.firsts)) == ([], 12, 12)
    assert 0 < found.delays["p50"] <= found.delays["p99"] <= found.delays["max"]


async def test_clients_tell_of_tokens_that_are_missing_and_of_errors(engine: str) -> None:
    short = await run(Spec(f"unix:{engine}", CHAT, body(Plan(3)), 4, connections=1, ramp=0.0, requests=1))
    assert short.failures[0].startswith("3 of 4 tokens: ")
    unasked = await run(Spec(f"unix:{engine}", CHAT, "{}", 1, connections=1, ramp=0.0, requests=1))
    assert "the chat does not say what is asked for" in unasked.failures[0]


def test_requests_may_come_in_any_pieces() -> None:
    data = post("/a", b"12") + b"GET /b HTTP/1.1\r\n\r\n" + post("/c", b"")
    for size in (1, 7, len(data)):
        requests = Requests()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        found = [request for piece in pieces for request in requests.feed(piece)]
        assert [(head.split()[1], content) for head, content in found] == [(b"/a", b"12"), (b"/b", b""), (b"/c", b"")]


def test_what_is_told_of_a_run() -> None:
    runs = {
        ("paced", 64, "direct"): [Found(seconds=2.0, tokens=1000, delays=percentiles([1_000_000, 2_000_000]))],
        ("paced", 64, "floor"): [Found(seconds=2.0, tokens=1000, cpu=0.01), Found(seconds=2.0, tokens=1000, cpu=0.02)],
        ("paced", 64, "ours"): [Found(seconds=2.0, tokens=1000, cpu=0.02), Found(seconds=2.0, tokens=1000, cpu=0.03)],
        ("sequential", 1, "direct"): [Found(firsts=[1.0, 1.0, 1.0])],
        ("sequential", 1, "ours"): [Found(firsts=[2.0, 1.5, 1.0])],
    }  # fmt: skip
    text = tables(runs)
    assert "| 64          | ours   | 25.0 (20.0 to 30.0) | 1.75 (1.50 to 2.00) |" in text
    assert "| 1           | ours   | 1.50                | 1.99    | 0.50          |" in text
    assert {panel.title.split()[0] for panel in panels(runs)} == {"CPU", "Delay", "Time"}
    assert [row["cpu_per_token_us"] for row in rows(runs)][:3] == [None, 10.0, 20.0]


def test_no_chart_without_what_draws_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.ArgumentParser()
    add_option(options)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        options.parse_args(["--png", "chart.png"])
    assert "uv run --group bench" in capsys.readouterr().err
    draw(None, "nothing asked for", [Bars("", "", [], {})])
    assert [short(value) for value in (0.1234, 12.34, 1234, 12345)] == ["0.123", "12.3", "1234", "12.3k"]
