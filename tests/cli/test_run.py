"""`vllama run` with a prompt."""

import json
import re

import pytest

from vllama.demo import dialogues

HELLO = dialogues.by_name("hello")
THOUGHT = f"Thinking...\n{HELLO.thinking}\n...done thinking.\n\n{HELLO.answer}\n"


async def test_a_prompt(run_greedy):
    done = await run_greedy("run", "demo", "Hello!")
    assert (done.code, done.out, done.err) == (0, THOUGHT, "")


async def test_from_a_pipe(run_greedy):
    assert (await run_greedy("run", "demo", stdin="Hello!")).out == THOUGHT


async def test_thinking_that_is_not_shown(run_greedy):
    assert (await run_greedy("run", "demo", "--hidethinking", "Hello!")).out == f"{HELLO.answer}\n"


async def test_timings(run_greedy):
    done = await run_greedy("run", "demo", "--verbose", "Hello!")
    shapes = [
        r"total duration:       \S+s",
        r"load duration:        \S+s",
        r"prompt eval count:    \d+ token\(s\)",
        r"prompt eval duration: \S+s",
        r"prompt eval rate:     [\d.]+ tokens/s",
        r"eval count:           \d+ token\(s\)",
        r"eval duration:        \S+s",
        r"eval rate:            [\d.]+ tokens/s",
    ]
    lines = done.err.splitlines()
    assert all(re.fullmatch(shape, line) for shape, line in zip(shapes, lines, strict=True)), done.err


async def test_an_embedding(run_api):
    done = await run_api("run", "demo-embed", "The train is late.")
    embedding = json.loads(done.out)
    assert len(embedding) == 64
    assert all(isinstance(number, float) for number in embedding)
    nothing = await run_api("run", "demo-embed")
    assert nothing.err == 'vllama: embedding models need a text: vllama run demo-embed "your text here"\n'


async def test_nothing_to_say_loads_the_model(run_api):
    done = await run_api("run", "demo")
    assert (done.code, done.out, done.err) == (0, "", "")


def answers(*capabilities: str):
    return {
        "POST /api/show": (200, {"capabilities": ["completion", *capabilities]}),
        "POST /api/generate": [{"response": "fine"}, {"response": "", "done": True}],
    }


@pytest.mark.parametrize(
    ("arguments", "stdin", "fields"),
    [
        (["one", "two"], "", {"prompt": "one two"}),
        (["sum up"], "a text\n", {"prompt": "a text\n sum up"}),
        (["--", "--verbose"], "", {"prompt": "--verbose"}),
        (["--keepalive", "-1", "x"], "", {"prompt": "x", "keep_alive": "-1"}),
        (["--format", "json", "x"], "", {"prompt": "x", "format": "json"}),
        (["--format", '{"type": "object"}', "x"], "", {"prompt": "x", "format": {"type": "object"}}),
        (["--think", "x"], "", {"prompt": "x", "think": True}),
        (["--think=high", "x"], "", {"prompt": "x", "think": "high"}),
    ],
)
def test_what_is_asked(run, server, arguments, stdin, fields):
    server.answers = answers()
    assert run("run", "m", *arguments, url=server.url, stdin=stdin).out == "fine\n"
    assert server.asked[-1] == ("POST /api/generate", {"model": "m", **fields})


def test_thinking_where_the_model_can(run, server):
    server.answers = answers("thinking")
    run("run", "m", "x", url=server.url)
    run("run", "m", "--think=false", "x", url=server.url)
    assert [body.get("think") for call, body in server.asked if "generate" in call] == [True, False]


def test_thinking_where_the_model_cannot(run, server):
    server.answers = answers()
    done = run("run", "m", "--think", "x", url=server.url)
    assert done.err == 'warning: model "m" does not support thinking output\n'
    assert run("run", "m", "--think=false", "x", url=server.url).err == ""


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--think=maybe", "invalid value for --think: 'maybe': give one of true, false, high, medium, low, max"),
        ("--format={", "bad value '{' for --format: give json or a JSON schema"),
    ],
)
def test_bad_values(run, server, flag, said):
    server.answers = answers()
    done = run("run", "m", flag, "x", url=server.url)
    assert (done.code, done.err, server.asked) == (1, f"vllama: {said}\n", [])


def test_images(run, server, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    server.answers = answers("vision")
    done = run("run", "m", "What is", "./a.png", url=server.url)
    assert done.err == "Added image 'a.png'\n"
    assert server.asked[-1][1] == {"model": "m", "prompt": "What is", "images": ["iVBORw=="]}


def test_embedding_options(run, server):
    server.answers = {
        "POST /api/show": (200, {"capabilities": ["embedding"]}),
        "POST /api/embed": (200, {"embeddings": [[0.5, 1e-7]]}),
    }
    done = run("run", "m", "x", "--dimensions", "2", "--truncate=false", "--keepalive", "1h", url=server.url)
    assert done.out == "[0.5,1e-07]\n"
    assert server.asked[-1][1] == {"model": "m", "input": "x", "dimensions": 2, "truncate": False, "keep_alive": "1h"}


def test_a_missing_model_is_pulled(run, server):
    server.answers = {"POST /api/pull": [{"status": "pulling manifest"}, {"error": "there is none either"}]}
    done = run("run", "m", "x", url=server.url)
    assert (done.code, done.err) == (1, "pulling manifest\nvllama: there is none either\n")
    assert server.calls == ["POST /api/show", "POST /api/pull"]


def test_an_error_in_the_middle(run, server):
    server.answers = answers() | {"POST /api/generate": [{"thinking": "hm"}, {"error": "the engine died"}]}
    done = run("run", "m", "x", url=server.url)
    assert (done.code, done.out, done.err) == (1, "Thinking...\nhm\n", "vllama: the engine died\n")
