"""What the benchmarks of the engine and of memory conclude from what they see."""

import json
from argparse import Namespace
from collections import Counter

import pytest

from benchmarks._dialects import CHAT, COMPLETIONS, OLLAMA, SONG, maker, read_openai
from benchmarks._under_test import UnderTest, _url
from benchmarks.engine import GOAL_WAY, Cell, intervals, report, selected, ways
from benchmarks.memory import Findings, kinds
from benchmarks.memory import report as memory_report
from vllama.bench.load import Answer, Level
from vllama.bench.summary import summarize

TESTED = UnderTest("http://gateway", "unix:/engine", "demo", "demo:latest", {"gateway": 1})


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"", (False, False, "", 0, 0)),
        (b": ping", (False, False, "", 0, 0)),
        (b"data: [DONE]", (False, True, "", 0, 0)),
        (b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}', (False, False, "", 0, 0)),
        (b'data: {"choices":[{"delta":{"content":"a"}}]}', (True, False, "", 0, 0)),
        (b'data: {"choices":[{"delta":{"reasoning":"a"}}]}', (True, False, "", 0, 0)),
        (b'data: {"choices":[{"text":"a"}]}', (True, False, "", 0, 0)),
        (b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7}}', (False, False, "", 7, 9)),
        (b'data: {"error":{"message":"lost"}}', (False, False, "lost", 0, 0)),
        (b'{"error":"refused"}', (False, False, "refused", 0, 0)),
    ],
)
def test_lines_of_openai(line, part):
    assert read_openai(line) == part


def test_requests_of_fixed_length():
    chat, text, ollama = (json.loads(maker(each, "m", {"x": 1})(9)) for each in (CHAT, COMPLETIONS, OLLAMA))
    for body in (chat, text):
        assert (body["model"], body["x"], body["max_tokens"], body["ignore_eos"]) == ("m", 1, 9, True)
    assert chat["messages"] == ollama["messages"] == [{"role": "user", "content": SONG}]
    assert ollama["options"]["num_predict"] == 9


@pytest.mark.parametrize(
    ("command", "url"),
    [
        (["vllama", "serve", "--uds", "/tmp/1.sock"], "unix:/tmp/1.sock"),
        (["vllama", "serve", "--host", "127.0.0.1", "--port", "8000"], "http://127.0.0.1:8000"),
    ],
)
def test_where_an_engine_listens(command, url):
    assert _url(command) == url


def test_ways_are_chosen_with_what_they_are_compared_with():
    found = ways(TESTED)
    assert selected(found, []) == found
    assert [way.name for way in selected(found, ["/api/"])] == ["direct /v1/chat/completions", "gateway /api/chat"]


def test_how_busy_the_engine_is():
    one = cell("direct", 1, 3.0)
    rate = one.summary.tokens_per_second
    assert one.busy == pytest.approx(500e-6 * rate)
    assert Cell("direct", one.summary, one.cpu | {"worker": 800.0}).busy == pytest.approx(800e-6 * rate)


def cell(way, clients, tokens_per_second):
    answer = Answer(0.0, 0.1, 1.0, [0.9], 2, tokens_per_second, is_complete=True)
    return Cell(way, summarize(Level(clients, [answer], began=1.0, ended=2.0)), {"gateway": 10.0, "engine core": 500.0})


def options(**more):
    return Namespace(json=None, png=None, **more)


@pytest.mark.parametrize(("own", "status"), [([98, 97, 20], 0), ([98, 90, 20], 1)])
def test_the_goal_is_the_median_of_the_rounds(own, status, capsys):
    chosen = ways(TESTED)
    cells = [cell(way.name, 8, 100) for way in chosen if way.name != GOAL_WAY for _ in own]
    cells += [cell(GOAL_WAY, 8, speed) for speed in own]
    assert report(cells, chosen, options(clients=[8], goal=0.97)) == status
    assert capsys.readouterr().out.count("\n") == 2 + len(chosen)


def test_intervals_are_compared_with_the_first():
    one, two = intervals(TESTED, [1, 4])
    assert (one.beside, two.beside, two.more) == ("", one.name, {"stream_interval": 4})
    assert {one.target.url, two.target.url} == {"unix:/engine"}


def test_all_kinds_of_requests():
    found = kinds()
    assert Counter(kind.path for kind in found.values())["/api/chat"] == 5
    assert sum(kind.leaves for kind in found.values()) == 3


@pytest.mark.parametrize(
    ("memory", "wrong", "status"),
    [([60, 70, 70, 70], {}, 0), ([60, 70, 80, 90], {}, 1), ([60, 70, 70, 70], {"x": 1}, 1)],
)
def test_memory_that_grows_behind_the_first_fifth_is_wrong(memory, wrong, status, capsys):
    counts = [
        (1000 * at, {"MB": float(mb), "resident MB": 90.0, "descriptors": 9.0, "threads": 1.0, "tasks": 1.0})
        for at, mb in enumerate(memory)
    ]
    assert memory_report(Findings(wrong=Counter(wrong), counts=counts), options(requests=3000, clients=8)) == status
    assert ("memory grew by" in capsys.readouterr().out) is (status == 1 and not wrong)


@pytest.mark.parametrize(("descriptors", "status"), [(17.0, 0), (18.0, 1)])
def test_connections_may_be_kept(descriptors, status, capsys):
    rest = {"MB": 60.0, "resident MB": 90.0, "threads": 1.0, "tasks": 3.0}
    counts = [(1000 * at, rest | {"descriptors": 9.0 if at == 0 else descriptors}) for at in range(4)]
    assert memory_report(Findings(counts=counts), options(requests=3000, clients=8)) == status
    assert ("more descriptors" in capsys.readouterr().out) is bool(status)
