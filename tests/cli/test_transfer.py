"""`vllama pull` and `vllama push`."""

import io
import sys

import pytest

from vllama.cli._steps import Step, show_transfer
from vllama.errors import VllamaError

LAYER = {"status": "pulling 0123456789ab", "digest": "sha256:0123456789ab", "total": 2_000_000_000}
PULL = [
    {"status": "pulling manifest"},
    LAYER,
    *(LAYER | {"completed": part * 50_000_000} for part in range(1, 41)),
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
    {"status": "success"},
]


def test_lines_elsewhere(run, server):
    server.answers["POST /api/pull"] = PULL
    done = run("pull", "m", url=server.url)
    assert (done.code, done.out) == (0, "")
    layer = [f"pulling 0123456789ab {percent}% of 2 GB" for percent in range(0, 101, 10)]
    assert done.err.splitlines() == [
        "pulling manifest",
        *layer,
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert server.asked == [("POST /api/pull", {"model": "m", "insecure": False})]


def test_push(run, server):
    server.answers["POST /api/push"] = [{"status": "retrieving manifest"}, {"status": "success"}]
    done = run("push", "me/m", "--insecure", url=server.url)
    assert (done.code, done.err) == (0, "retrieving manifest\nsuccess\n")
    assert server.asked == [("POST /api/push", {"model": "me/m", "insecure": True})]


@pytest.mark.parametrize("command", ["pull", "push"])
def test_an_error_on_the_way(run, server, command):
    server.answers[f"POST /api/{command}"] = [{"status": "pulling manifest"}, {"error": "no space left"}]
    done = run(command, "m", url=server.url)
    assert (done.code, done.err) == (1, "pulling manifest\nvllama: no space left\n")


def test_an_error_at_once(run, server):
    server.answers["POST /api/pull"] = (404, {"error": "pull model manifest: file does not exist"})
    done = run("pull", "m", url=server.url)
    assert (done.code, done.err) == (1, "vllama: pull model manifest: file does not exist\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(monkeypatch) -> Terminal:
    """No fixture: pytest takes over the streams between those and the test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return terminal


def test_bars_on_a_terminal(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with show_transfer() as show:
        for chunk in PULL:
            show(Step(chunk["status"], chunk.get("total", 0), chunk.get("completed", 0)))
    last = terminal.getvalue().split("\x1b[2K")[-1]
    assert "pulling 0123456789ab" in last
    assert "100%" in last
    assert "2.0/2.0 GB" in last
    assert "success" in last
    assert "writing manifest" not in last


def test_what_failed_does_not_go_on(monkeypatch):
    terminal = on_terminal(monkeypatch)

    def fail():
        with show_transfer() as show:
            show(Step("pulling manifest"))
            raise VllamaError("no")

    with pytest.raises(VllamaError):
        fail()
    *_, last = terminal.getvalue().split("\x1b[2K")
    assert last == "\x1b[?25h"  # only the cursor comes back
