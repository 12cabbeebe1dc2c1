"""`vllama ps --watch`, and the failures that `vllama ps` tells of."""

import json
import re

import pytest

from tests.cli.conftest import HANG
from tests.cli.test_chat import CTRL_C, Terminal
from tests.served import SCRIPT
from vllama.cli._watch import Board

FAILED = "out of GPU memory: use a smaller model"


def engine(name="demo:latest", **more):
    return {
        "name": name, "models": [name], "state": "ready", "phase": None, "fraction": None, "detail": "", "phases": [],
        "seconds": 7.2, "memory": 1_100_000_000, "resident": 900_000_000, "requests": {"running": 0, "waiting": 0},
        "tokens_per_second": None, "restarts": 0, "fast": True, "pid": 123, "log": "/x/demo.log", "error": "",
    } | more  # fmt: skip


STANDBY = {"state": "parked", "pid": 7, "memory": 600_000_000, "reason": ""}
LOADING = engine(
    state="starting", phase="reading weights", fraction=0.5, detail="1 of 2", seconds=3.0,
    requests={"running": 0, "waiting": 1},
)  # fmt: skip


def event(name, data):
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


EVENTS = [
    event("engines", {"engines": [LOADING], "standby": STANDBY}),
    b": heartbeat\n\n",
    event("engine", engine()),
    event("engine", engine(tokens_per_second=31.25)),
    event("engine", engine(requests={"running": 2, "waiting": 1})),
    event("engine", engine("big:latest", state="failed", error=FAILED, restarts=3)),
    event("standby", STANDBY | {"state": "off", "memory": 0, "reason": "little memory is free"}),
    event("gone", {"name": "demo:latest"}),
]


def test_a_line_for_each_change(run, server):
    server.answers["GET /api/engines/events"] = EVENTS
    done = run("ps", "--watch", url=server.url)
    assert re.sub(r"^\d\d:\d\d:\d\d ", "", done.out, flags=re.MULTILINE).splitlines() == [
        "demo:latest: starting, reading weights 50%",
        "standby: parked",
        "demo:latest: ready",
        "demo:latest: ready, 2 running, 1 waiting",
        f"big:latest: failed: {FAILED}",
        "standby: off: little memory is free",
        "demo:latest: gone",
    ]
    assert (done.code, done.err) == (1, "vllama: the server has gone: start it with `vllama serve`\n")


def test_only_some(run, server):
    server.answers["GET /api/engines/events"] = EVENTS
    lines = run("ps", "-w", "BIG", url=server.url).out.splitlines()
    assert [line.split()[1] for line in lines] == ["big:latest:"]


def test_the_events_for_scripts(run, server):
    server.answers["GET /api/engines/events"] = EVENTS
    done = run("ps", "--watch", "--format", "json", "demo", url=server.url)
    told = [json.loads(line) for line in done.out.splitlines()]
    assert [one["event"] for one in told] == ["engines", "engine", "engine", "engine", "standby", "gone"]
    assert told[1]["name"] == "demo:latest"
    assert (done.code, done.err) == (0, "")


def test_a_server_that_tells_nothing(run, server):
    server.answers["GET /api/engines/events"] = (404, "404 page not found")
    done = run("ps", "--watch", url=server.url)
    said = "this server tells nothing of its engines: `ps --watch` needs a vLLama server"
    assert (done.code, done.out, done.err) == (1, "", f"vllama: {said}\n")


def test_the_table():
    now = 0.0
    board = Board(clock=lambda: now)
    assert board.text(120) == ""
    for name, data in (
        ("engines", {"engines": [LOADING, engine("big:latest", state="failed", error=FAILED)], "standby": STANDBY}),
        ("engine", engine("x:latest", tokens_per_second=31.25, requests={"running": 2, "waiting": 1}, memory=0)),
    ):
        board.take((name, data))
    now = 2.0
    columns = [re.split(r"\s{4,}", line) for line in board.text(120).splitlines()]
    assert columns == [
        ["NAME", "STATE", "PHASE", "SECONDS", "MEMORY", "REQUESTS", "TOKENS/S", "RESTARTS"],
        ["demo:latest", "starting", "reading weights 1 of 2 (50%)", "5", "1.1 GB", "0+1", "-", "0"],
        ["big:latest", "failed", "-", "9", "1.1 GB", "0+0", "-", "0"],
        ["x:latest", "ready", "-", "9", "-", "2+1", "31.2", "0"],
        [""],
        [f"big:latest: {FAILED}"],
        ["standby: parked, 600 MB"],
    ]


@pytest.mark.parametrize(
    ("width", "head"),
    [
        (98, ["NAME", "STATE", "PHASE", "SECONDS", "MEMORY", "REQUESTS", "TOKENS/S", "RESTARTS"]),
        (90, ["NAME", "STATE", "PHASE", "SECONDS", "MEMORY", "REQUESTS", "TOKENS/S"]),
        (60, ["NAME", "STATE", "PHASE", "SECONDS"]),
        (20, ["NAME", "STATE", "PHASE", "SECONDS"]),
    ],
)
def test_a_narrow_table(width, head):
    board = Board()
    board.take(("engines", {"engines": [LOADING]}))
    assert board.text(width).splitlines()[0].split() == head


def test_a_failure_is_told_once(run, server):
    lost = {"error": "the engine of demo:latest was lost: it hung"}
    server.answers["GET /api/engines/events"] = [
        event("engines", {"engines": [engine(state="failed", **lost)]}),
        event("engine", engine(state="starting", phase="importing", **lost)),
        event("engine", engine()),
        event("engine", engine(state="failed", **lost)),
    ]
    lines = run("ps", "--watch", url=server.url).out.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "demo:latest: failed: the engine of demo:latest was lost: it hung",
        "demo:latest: starting, importing",
        "demo:latest: ready",
        "demo:latest: failed: the engine of demo:latest was lost: it hung",
    ]


def test_on_a_terminal(server):
    server.answers["GET /api/engines/events"] = [*EVENTS[:2], HANG]
    terminal = Terminal(SCRIPT, "ps", "--watch", OLLAMA_HOST=server.url)
    try:
        terminal.expect("reading weights 1 of 2 (50%)")
        terminal.expect("standby: parked, 600 MB")
        terminal.write(CTRL_C)
        assert terminal.process.wait(10) == 0
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()


def test_on_a_terminal_it_waits_for_the_server(server):
    server.answers["GET /api/engines/events"] = EVENTS[:1]
    terminal = Terminal(SCRIPT, "ps", "--watch", OLLAMA_HOST=server.url)
    try:
        terminal.expect("the server has gone: waiting for it to come back (Ctrl-C ends)")
        server.answers["GET /api/engines/events"] = [event("engines", {"engines": [engine("back:latest")]}), HANG]
        terminal.expect("back:latest")
        terminal.write(CTRL_C)
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), f"big:latest: {FAILED}\n"), (("demo",), ""), (("--format", "json"), "")],
)
def test_ps_tells_of_failures(run, server, arguments, said):
    server.answers["GET /api/ps"] = (200, {"models": []})
    engines = [engine(), engine("big:latest", state="failed", error=FAILED)]
    server.answers["GET /api/engines"] = (200, {"engines": engines})
    server.answers["GET /health"] = (200, {"status": "ok", "failed": ["big:latest"]})
    done = run("ps", *arguments, url=server.url)
    assert (done.code, done.err) == (0, said)


def test_ps_before_ollama(run, server):
    server.answers["GET /api/ps"] = (200, {"models": []})
    server.answers["GET /health"] = (404, "404 page not found")
    assert run("ps", url=server.url).err == ""
    assert server.calls == ["GET /api/ps", "GET /health"]
