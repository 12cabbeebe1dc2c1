"""Clients that ask at once, and what they keep of the answers."""

import asyncio
import json

import pytest

from tests.bench.test_connection import Server
from vllama.bench.connection import Target
from vllama.bench.dialects import CHAT, GENERATE, read_ollama
from vllama.bench.load import Answer, Level, Plan, _Reader, run
from vllama.bench.prompts import Prompts, words_for
from vllama.bench.summary import percentile, summarize


def line(text="", **more):
    return json.dumps({"message": {"role": "assistant", "content": text}, "done": False} | more).encode() + b"\n"


LAST = line(done=True, eval_count=3, prompt_eval_count=20)
WHOLE = [line(thinking="hm"), line("a"), line("b"), LAST]


def http(lines, status=200):
    body = b"".join(lines)
    return [b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n" % (status, len(body)), *lines]


def plan(url, **limit):
    return Plan(Target(url), CHAT, lambda tokens: json.dumps(CHAT.body("x", tokens)).encode(), 3, **limit)


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ({"message": {"content": "a"}, "done": False}, (True, False, "", 0, 0)),
        ({"message": {"content": "", "thinking": "a"}}, (True, False, "", 0, 0)),
        ({"message": {"content": ""}}, (False, False, "", 0, 0)),
        ({"response": "a"}, (True, False, "", 0, 0)),
        ({"response": "", "thinking": "a"}, (True, False, "", 0, 0)),
        ({"response": "", "done": True, "eval_count": 7, "prompt_eval_count": 9}, (False, True, "", 7, 9)),
        ({"error": "lost"}, (False, False, "lost", 0, 0)),
    ],
)
def test_lines(said, part):
    assert read_ollama(json.dumps(said).encode()) == part


def read(*reads, status=200):
    answer = Answer(1.0)
    reader = _Reader(CHAT, answer)
    for number, data in enumerate(reads):
        reader.take(data, 2.0 + number)
    reader.end(status)
    return answer


def test_an_answer_as_it_comes():
    answer = read(line("a"), line("b") + line("c")[:9], line("c")[9:], LAST)
    assert (answer.first, answer.last, answer.gaps, answer.pieces) == (2.0, 4.0, [1.0, 1.0], 3)
    assert (answer.is_complete, answer.tokens, answer.prompt_tokens, answer.error) == (True, 3, 20, "")


@pytest.mark.parametrize(
    ("reads", "status", "error"),
    [
        ([line("a")], 200, "the answer broke off"),
        ([line("a"), b'{"error":"the engine ended"}\n'], 200, "the engine ended"),
        ([b'{"error":"busy"}'], 503, "503: busy"),
        ([b"<html>"], 502, "502: the answer makes no sense: JSON is malformed: invalid character (byte 0)"),
        ([], 500, "500: nothing is said"),
    ],
)
def test_what_was_wrong(reads, status, error):
    assert read(*reads, status=status).error == error


async def test_so_many_requests():
    server = Server(*[http(WHOLE) for _ in range(7)])
    async with server.on() as url:
        level = Level(2)
        await run(plan(url, requests=5), level)
    found = summarize(level)
    assert (found.requests, found.tokens, found.errors, server.connections) == (5, 15, {}, 2)
    asked = [json.loads(request.partition(b"\r\n\r\n")[2])["options"]["num_predict"] for request in server.asked]
    assert asked == [8, 8, 3, 3, 3, 3, 3]
    assert found.ttft.p50 > 0
    assert found.prompt_tokens == 20


async def test_for_so_long():
    server = Server(*[http(WHOLE) for _ in range(1000)])
    async with server.on() as url:
        level = Level(1)
        await run(plan(url, seconds=0.05), level)
    assert level.seconds >= 0.05
    assert len(level.answers) == len(server.asked) - 1


async def test_nobody_there():
    async with Server().on() as url:
        pass
    level = Level(3)
    await asyncio.wait_for(run(plan(url, seconds=60), level), 20)
    (error,) = summarize(level).errors
    assert error.startswith("could not connect")


async def test_what_an_interrupted_answer_has_shown():
    server = Server(http(WHOLE), [b"HTTP/1.1 200 -\r\nContent-Length: 1000\r\n\r\n", line("a"), line("b")])
    async with server.on() as url:
        level = Level(1)
        task = asyncio.create_task(run(plan(url, requests=1), level))
        while not (level.answers and level.answers[0].pieces == 2):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    found = summarize(level)
    assert (found.requests, found.tokens, found.duration, found.errors) == (0, 2, None, {})
    assert found.ttft is not None


def test_an_empty_level():
    found = summarize(Level(1))
    assert (found.tokens_per_second, found.ttft, found.per_stream) == (0.0, None, None)


def test_numbers():
    first = Answer(0.0, first=1.0, last=3.0, gaps=[0.5, 1.5], pieces=3, tokens=5, is_complete=True)
    second = Answer(0.0, first=2.0, last=4.0, gaps=[2.0], pieces=2, tokens=3, is_complete=True)
    bad = Answer(0.0, first=9.0, error="lost")
    found = summarize(Level(2, [first, second, bad], began=10.0, ended=14.0, cpu=1.0))
    assert (found.tokens, found.tokens_per_second, found.client_cpu, found.errors) == (8, 2.0, 0.25, {"lost": 1})
    assert found.per_stream == pytest.approx((4 / 2 + 2 / 2) / 2)
    assert (found.ttft.p50, found.itl.p50, found.duration.p50) == (1500.0, 1500.0, 3500.0)


def test_percentiles():
    assert [percentile([1.0, 2.0, 3.0, 4.0, 5.0], part) for part in (0.0, 0.5, 0.9, 1.0)] == [1.0, 3.0, 4.6, 5.0]
    assert percentile([7.0], 0.99) == 7.0


def test_prompts():
    prompts = Prompts(12)
    texts = {prompts.next() for _ in range(20)}
    assert len(texts) == 20
    assert {len(text.partition("\n")[0].split()) for text in texts} == {12}
    same = Prompts(12, same=True)
    assert same.next() == same.next()


@pytest.mark.parametrize(
    ("tokens", "words"), [(100, 40), (20, 1), (1, 1)], ids=["as counted", "no room for more", "less than there is"]
)
def test_words_for_a_length(tokens, words):
    assert words_for(tokens, (16, 52), (48, 116)) == words


def test_words_where_the_server_counts_only_what_it_computes():
    assert words_for(64, (16, 1), (48, 1)) > 48


def test_requests():
    assert CHAT.body("Hi", 9) == {"messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 9}}
    assert GENERATE.body("Hi", 9) == {"prompt": "Hi", "options": {"num_predict": 9}}
