"""`vllama warm`, and how a load is shown."""

import time

import pytest

from tests.cli.conftest import HANG
from tests.cli.test_chat import CTRL_C, Terminal
from tests.served import SCRIPT
from vllama.cli._loading import Load, now_line


def status(phase, **more):
    return {"status": phase, "phase": phase, "fraction": None, "detail": "", "seconds": 0.0} | more


LOAD = [
    status("importing"),
    status("importing", seconds=3.1),
    status("reading weights", fraction=0.5, detail="1 of 2"),
    status("warming up"),
    {"status": "success", "total_duration": 6_400_000_000, "phases": [{"phase": "importing", "seconds": 3.1}]},
]


def test_a_line_for_each_phase(run, server):
    server.answers["POST /api/warmup"] = LOAD
    done = run("warm", "demo", url=server.url)
    assert (done.code, done.out) == (0, "demo:latest is ready (6.4 s)\n")
    assert done.err == ("importing\nreading weights (importing took 3.1 s)\nwarming up (reading weights took 0.0 s)\n")
    assert server.asked == [("POST /api/warmup", {"model": "demo"})]


def test_how_long_it_stays(run, server):
    server.answers["POST /api/warmup"] = LOAD[-1:]
    assert run("warm", "demo:7b", "--keepalive", "-1", url=server.url).out == "demo:7b is ready (6.4 s)\n"
    assert server.asked[0][1] == {"model": "demo:7b", "keep_alive": "-1"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {"error": "model 'x' not found"}), "model 'x' not found"),
        (
            (404, "404 page not found"),
            "this server cannot load a model ahead of its first request: `vllama warm` needs a vLLama server",
        ),
        ([{"error": "out of memory: use a smaller model"}], "out of memory: use a smaller model"),
        ([], "the server stopped before x was loaded: look at its log"),
    ],
)
def test_refusals(run, server, answer, said):
    server.answers["POST /api/warmup"] = answer
    done = run("warm", "x", url=server.url)
    assert (done.code, done.out, done.err) == (1, "", f"vllama: {said}\n")


def test_on_a_terminal(server):
    server.answers["POST /api/warmup"] = LOAD
    engine = {"name": "demo:latest", "models": ["demo:latest"], "memory": 1_100_000_000}
    server.answers["GET /api/engines"] = (200, {"engines": [engine]})
    terminal = Terminal(SCRIPT, "warm", "demo", OLLAMA_HOST=server.url)
    try:
        terminal.expect("✓ importing               3.1 s\n")
        terminal.expect("✓ reading weights  ")
        terminal.expect("✓ warming up  ")
        terminal.expect("demo:latest is ready (6.4 s, 1.1 GB)\n")
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()


def test_leaving_a_load(server):
    server.answers["POST /api/warmup"] = [status("reading weights", fraction=0.25, detail="1 of 4"), HANG]
    terminal = Terminal(SCRIPT, "warm", "demo", OLLAMA_HOST=server.url)
    try:
        terminal.expect("reading weights")
        terminal.expect("━━━───────── 25%  1 of 4")
        terminal.write(CTRL_C)
        assert terminal.process.wait(10) == 130
        assert server.left.wait(10)
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()


def test_run_shows_the_load_first(server):
    server.answers = {
        "POST /api/show": (200, {"capabilities": ["completion"]}),
        "POST /api/warmup": [status("importing", seconds=3.0), HANG],
    }
    terminal = Terminal(SCRIPT, "run", "m", "Hi", OLLAMA_HOST=server.url)
    try:
        terminal.expect(" importing               3.")
        assert server.calls == ["POST /api/show", "POST /api/warmup"]
        terminal.write(CTRL_C)
        assert terminal.process.wait(10) == 130
    finally:
        terminal.close()


def test_run_before_a_server_that_cannot(server):
    server.answers = {
        "POST /api/show": (200, {"capabilities": ["completion"]}),
        "POST /api/warmup": (404, "404 page not found"),
        "POST /api/generate": [{"response": "fine"}, {"response": "", "done": True}],
    }
    terminal = Terminal(SCRIPT, "run", "m", "Hi", OLLAMA_HOST=server.url)
    try:
        terminal.expect("fine")
        assert server.calls == ["POST /api/show", "POST /api/warmup", "POST /api/generate"]
    finally:
        terminal.close()


def test_a_chat_shows_each_load(server):
    """Of a model that was unloaded between two questions, too."""
    server.answers = {
        "POST /api/show": (200, {"capabilities": ["completion"]}),
        "POST /api/warmup": LOAD[-1:],
        "POST /api/generate": (200, {"done": True}),
    }
    terminal = Terminal(SCRIPT, "run", "demo", OLLAMA_HOST=server.url)
    try:
        terminal.expect(">>> ")
        server.answers["POST /api/warmup"] = [status("importing", seconds=3.0), HANG]
        terminal.say("hello")
        terminal.expect("importing               3.")
        terminal.write(CTRL_C)
        terminal.expect(">>> ")
    finally:
        terminal.close()


def test_what_goes_on():
    began = time.monotonic() - 4
    line = now_line(Load("reading weights", 0.5, "1 of 2", began), 11.0, "m:latest").plain
    assert line[1:] == f" m:latest: reading weights         4.0 s  {'━' * 6}{'─' * 6} 50%  1 of 2  (11 s in all)"
    assert now_line(None, 1.0).plain == ""
