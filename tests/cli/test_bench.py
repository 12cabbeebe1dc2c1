"""`vllama bench`."""

import asyncio
import json

import msgspec
import pytest

from tests.cli.conftest import HANG
from tests.cli.test_chat import CTRL_C, Terminal
from tests.fake_engine import Stream, chat_events
from tests.served import SCRIPT
from vllama.bench.connection import Target
from vllama.bench.dialects import CHAT
from vllama.bench.load import Answer, Level, Plan
from vllama.bench.summary import summarize
from vllama.cli._bench import ended_line, notes, now_line

READY = [{"status": "success", "total_duration": 1_000_000, "phases": []}]
WORD = {"message": {"content": "a"}, "done": False}
SAID = [WORD, WORD, {"message": {"content": ""}, "done": True, "eval_count": 2, "prompt_eval_count": 50}]
HEAD = "CLIENTS  REQUESTS  ERRORS  TOKENS/S  PER STREAM  TTFT P50"


class InTurn(dict):
    """Answers of a scripted server: of a tuple of lists each call gets the next, the last one again and again."""

    def get(self, call, default=None):
        answer = super().get(call, default)
        if isinstance(answer, tuple) and isinstance(answer[0], list):
            self[call] = answer[1:] or answer
            return answer[0]
        return answer


@pytest.fixture
def ready(server):
    server.answers = InTurn({"POST /api/warmup": READY, "POST /api/chat": SAID})
    return server


def prompts(server):
    return [body["messages"][0]["content"] for call, body in server.asked if call == "POST /api/chat"]


def test_a_table(run, ready):
    done = run("bench", "demo", "--clients", "1,2", "--requests", "4", url=ready.url)
    assert done.code == 0
    head, one, two = done.out.splitlines()
    assert head.startswith(HEAD)
    assert one.split()[:3] == ["1", "4", "0"]
    assert two.split()[:3] == ["2", "4", "0"]
    assert one.split()[-2:] == ["50", "2"]
    assert [line.partition(" in ")[0] for line in done.err.splitlines()[:2]] == [
        "1 client: 4 answers", "2 clients: 4 answers"
    ]  # fmt: skip
    asked = prompts(ready)
    assert len(set(asked)) == len(asked) == 2 + (1 + 4) + (2 + 4)
    assert ready.calls[0] == "POST /api/warmup"


def test_lengths(run, ready):
    run("bench", "demo", "--clients", "1", "--requests", "2", "--tokens", "5", "--prompt-tokens", "90", url=ready.url)
    limits = [body["options"]["num_predict"] for call, body in ready.asked if call == "POST /api/chat"]
    assert limits == [1, 1, 8, 5, 5]


def test_the_same_prompt(run, ready):
    run("bench", "demo", "--clients", "2", "--requests", "3", "--same-prompt", url=ready.url)
    assert len(set(prompts(ready)[2:])) == 1


def test_numbers_for_scripts(run, ready, tmp_path):
    arguments = ("--clients", "1", "--seconds", "0.1", "--format", "json", "--json", "found.json")
    done = run("bench", "demo", *arguments, url=ready.url)
    found = json.loads(done.out)
    assert found == json.loads((tmp_path / "found.json").read_text())
    (level,) = found.pop("levels")
    assert found == {
        "url": ready.url, "model": "demo", "api": "/api/chat", "same_prompt": False, "interrupted": False
    }  # fmt: skip
    assert level["tokens"] == 2 * level["requests"] > 0
    assert set(level["ttft"]) == {"p50", "p90", "p99"}


def test_another_server_and_interface(run, ready, monkeypatch):
    monkeypatch.setenv("OLLAMA_API_KEY", "secret")
    last = {"response": "", "done": True, "eval_count": 1, "prompt_eval_count": 9}
    ready.answers["POST /api/generate"] = [{"response": "a", "done": False}, last]
    address = ready.url.removeprefix("http://")
    arguments = ("--api", "generate", "--clients", "1", "--requests", "1", "--url", address)
    assert run("bench", "demo", *arguments, url="http://127.0.0.1:1").code == 0
    assert {headers.get("Authorization") for headers in ready.headers} == {"Bearer secret"}
    assert set(ready.calls) == {"POST /api/warmup", "POST /api/generate"}


def test_a_server_that_cannot_show_a_load(run, ready):
    ready.answers["POST /api/warmup"] = (404, "404 page not found")
    ready.answers["POST /api/generate"] = (200, {"done": True})
    assert run("bench", "demo", "--clients", "1", "--requests", "1", url=ready.url).code == 0
    assert ready.asked[1] == ("POST /api/generate", {"model": "demo"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--clients", "1,x"), "bad value '1,x' for --clients: give numbers like 1,8,32"),
        (("--clients", "0"), "bad value '0' for --clients: give numbers like 1,8,32"),
        (("--url", "unix:/x"), "bad value 'unix:/x' for --url: give http://host:port or https://host"),
        (("--url", "foo://x"), "bad value 'foo://x' for --url: give http://host:port or https://host"),
        (("--requests", "1", "--seconds", "1"), "there are both --requests and --seconds: give one of them"),
    ],
)
def test_arguments(run, ready, arguments, said):
    done = run("bench", "demo", *arguments, url=ready.url)
    assert (done.code, done.out, done.err) == (1, "", f"vllama: {said}\n")
    assert ready.asked == []


@pytest.mark.parametrize(
    ("call", "answer", "said"),
    [
        ("POST /api/warmup", (404, {"error": "model 'demo' not found"}), "model 'demo' not found"),
        ("POST /api/chat", (400, {"error": '"demo" does not support chat'}), '"demo" does not support chat'),
    ],
)
def test_a_model_that_cannot(run, ready, call, answer, said):
    ready.answers[call] = answer
    done = run("bench", "demo", url=ready.url)
    assert (done.code, done.out, done.err) == (1, "", f"vllama: {said}\n")


def test_no_server(run):
    done = run("bench", "demo", "--url", "127.0.0.1:1", url="http://127.0.0.1:2")
    said = "vllama: could not connect to vllama server at http://127.0.0.1:1: start it with `vllama serve`\n"
    assert (done.code, done.out, done.err) == (1, "", said)


def test_a_file_that_cannot_be_written(run, ready):
    done = run("bench", "demo", "--clients", "1", "--requests", "1", "--json", "no/such.json", url=ready.url)
    said = "vllama: no/such.json cannot be written (No such file or directory): name another file for --json\n"
    assert (done.code, done.out, done.err) == (1, "", said)
    assert ready.asked == []


def test_a_file_keeps_what_it_has_until_there_is_more(run, ready, tmp_path):
    file = tmp_path / "found.json"
    file.write_text("earlier")
    ready.answers["POST /api/warmup"] = (404, {"error": "model 'demo' not found"})
    assert run("bench", "demo", "--json", str(file), url=ready.url).code == 1
    assert file.read_text() == "earlier"


def test_answers_that_fail(run, ready):
    lost = [WORD, {"error": "the engine ended"}]
    ready.answers["POST /api/chat"] = (SAID, SAID, SAID, lost, SAID)
    done = run("bench", "demo", "--clients", "1", "--requests", "3", url=ready.url)
    assert done.code == 0
    assert done.out.splitlines()[1].split()[:3] == ["1", "2", "1"]
    assert done.err.splitlines()[-1] == "1 client: 1 x the engine ended"


def test_nothing_but_failures(run, ready):
    ready.answers["POST /api/chat"] = (SAID, SAID, [{"error": "the engine ended"}])
    done = run("bench", "demo", "--clients", "2", url=ready.url)
    assert done.code == 1
    assert done.err.splitlines()[-2:] == [
        "2 clients: 2 x the engine ended", "vllama: no request was answered: what was said is above"
    ]  # fmt: skip


async def test_before_the_gateway(run, alone):
    alone.engine.answer = Stream(*chat_events("Hel", "lo"))
    arguments = ("bench", "demo", "--clients", "1,2", "--requests", "2", "--prompt-tokens", "9", "--format", "json")
    done = await asyncio.to_thread(run, *arguments, url=alone.url)
    assert [level["requests"] for level in json.loads(done.out)["levels"]] == [2, 2]


def test_on_a_terminal(ready):
    ready.answers["POST /api/chat"] = (SAID, SAID, SAID, SAID, SAID, SAID, [WORD, WORD, HANG])
    terminal = Terminal(SCRIPT, "bench", "demo", "--clients", "1,1", "--requests", "3", OLLAMA_HOST=ready.url)
    try:
        terminal.expect("✓ 1 client: 3 answers in ")
        terminal.expect(" 1 client: warming up")
        terminal.write(CTRL_C)
        terminal.expect("CLIENTS")
        terminal.expect("interrupted: this is what was measured so far")
        assert terminal.process.wait(10) == 130
        assert "Traceback" not in terminal.text
        assert ready.left.wait(10)
    finally:
        terminal.close()


def plan(**limit):
    return Plan(Target("http://x"), CHAT, lambda _tokens: b"", 8, **limit)


def test_what_goes_on():
    level = Level(8, [Answer(0.0, tokens=10, is_complete=True), Answer(0.0, pieces=4)], began=-1e9)
    line = now_line(level, plan(requests=4)).plain
    assert line[1:].startswith(f" 8 clients  {'━' * 5}{'─' * 15}  1 answer  0 tokens/s  ")
    assert now_line(Level(1), plan(seconds=1.0)).plain[1:] == " 1 client: warming up"
    assert now_line(Level(1, began=1.0, ended=2.0), plan(seconds=1.0)).plain == ""


def test_a_busy_benchmark_says_so():
    busy = summarize(Level(64, began=1.0, ended=2.0, cpu=0.9))
    assert list(notes([busy], interrupted=False)) == [
        "64 clients: the benchmark itself was busy for 90% of the time: the server may be faster than it looks"
    ]
    assert list(notes([msgspec.structs.replace(busy, client_cpu=0.5)], interrupted=False)) == []


def test_a_busy_server():
    refused = Answer(0.0, error="503: server busy")
    level = Level(2, [Answer(0.0, tokens=9, is_complete=True), refused, refused], began=1.0, ended=4.0)
    assert ended_line(level) == "2 clients: 1 answer in 3.0 s, 3 tokens/s, 2 errors"
    assert list(notes([summarize(level)], interrupted=False)) == [
        "2 clients: 2 x 503: server busy",
        "503: more was asked at once than the server takes; its log says which bound that was",
    ]
