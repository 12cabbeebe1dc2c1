"""`vllama run` in a terminal: what a person writes, sees, and what the server is asked for it."""

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import HANG, Scripted
from tests.served import SCRIPT, environment
from vllama.cli._chat import _message
from vllama.cli._session import Session

BEFORE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Arr"}]
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """A command in a terminal of 80 columns."""

    def __init__(self, *command: str | Path, **variables: str) -> None:
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)
        variables |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "PROMPT_TOOLKIT_NO_CPR": "1"}
        # setsid makes it the controlling terminal, from which Ctrl-C comes.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=environment(**variables)
        )
        os.close(slave)
        self.raw = ""
        self._seen = 0

    @property
    def text(self) -> str:
        """What it wrote, without the terminal's orders."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\x1b[=>]", "", self.raw)

    def write(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, seconds: float = 20.0) -> None:
        """Wait until it appears after what was expected before."""
        deadline = time.monotonic() + seconds
        while (found := self.text.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.text[self._seen :]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.raw += os.read(self._master, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    pytest.fail(f"{text!r} is not in {self.text[self._seen :]!r}", pytrace=False)
        self._seen = found + len(text)

    def say(self, text: str) -> None:
        self.write(f"{text}\r")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(5)
        os.close(self._master)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def terminal(server: Scripted, home):
    server.answers = {
        "POST /api/show": (200, {"capabilities": ["completion", "thinking"], "messages": BEFORE}),
        "POST /api/generate": (200, {"done": True}),
        "POST /api/create": [{"status": "success"}],
    }
    terminal = Terminal(SCRIPT, "run", "m", OLLAMA_HOST=server.url, VLLAMA_HOME=str(home))
    try:
        terminal.expect(">>> Hi\nArr\n\n>>> ")
        yield terminal
    finally:
        terminal.close()


def answer(server: Scripted, *texts: str) -> None:
    server.answers["POST /api/chat"] = [
        *({"message": {"role": "assistant", "content": text}} for text in texts),
        {"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 7},
    ]


def test_a_conversation(server, terminal, home):
    server.answers["POST /api/chat"] = [
        {"message": {"content": "", "thinking": "hm"}},
        {"message": {"content": "word " * 20}},
        {"message": {"content": ""}, "done": True, "eval_count": 7},
    ]
    terminal.say("/set verbose")
    terminal.expect("Set 'verbose' mode.")
    terminal.say("/set parameter temperature 0.5")
    terminal.expect("Set parameter 'temperature' to '0.5'")
    terminal.say("one")
    terminal.expect("Thinking...\nhm\n...done thinking.\n\n" + ("word " * 15).rstrip())
    terminal.expect("\nword word")
    assert "\x1b[90m\x1b[1mThinking...\r\n\x1b[0m\x1b[90mhm\r\n" in terminal.raw
    terminal.expect("eval count:           7 token(s)")
    terminal.expect(">>> ")
    terminal.say('"""two')
    terminal.expect("... ")
    terminal.say('three"""')
    terminal.expect(">>> ")
    terminal.say("/save n")
    terminal.expect("Created new model 'n'")
    terminal.expect(">>> ")
    terminal.say("/bye")
    assert terminal.process.wait(10) == 0
    chats = [body for call, body in server.asked if call == "POST /api/chat"]
    first = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "word " * 20}]
    second = {"role": "user", "content": "two\nthree"}
    options = {"temperature": 0.5}
    assert chats == [
        {"model": "m", "options": options, "think": True, "messages": first[:1]},
        {"model": "m", "options": options, "think": True, "messages": [*first, second]},
    ]
    assert server.asked[-1][1] == {
        "model": "n", "from": "m", "parameters": options, "messages": [*BEFORE, *first, second, first[1]]
    }  # fmt: skip
    assert "+one\n" in (home / "history").read_text()
    assert (home / "history").stat().st_mode & 0o777 == 0o600


def test_ctrl_c_and_ctrl_d(server, terminal):
    terminal.write(CTRL_C)
    terminal.expect("Use Ctrl + d or /bye to exit.")
    terminal.expect(">>> ")
    server.answers["POST /api/chat"] = [{"message": {"content": "for ever"}}, HANG]
    terminal.say("/set nothink")
    terminal.say("Sing")
    terminal.expect("for ever")
    terminal.write(CTRL_C)
    assert server.left.wait(10)  # which is what frees the engine
    terminal.expect(">>> ")
    answer(server, "fine")
    terminal.say("Go on")
    terminal.expect("fine")
    assert [message["content"] for message in server.asked[-1][1]["messages"]] == ["Sing", "for ever", "Go on"]
    assert server.asked[-1][1]["think"] is False
    terminal.expect(">>> ")
    terminal.write(CTRL_D)
    assert terminal.process.wait(10) == 0


def test_an_error_is_not_the_end(server, terminal, home):
    server.answers["POST /api/chat"] = (503, {"error": "server busy"})
    terminal.say("/set nohistory")
    terminal.expect(">>> ")
    terminal.say("one")
    terminal.expect("error: server busy")
    answer(server, "fine")
    terminal.say("two")
    terminal.expect("fine")
    assert server.asked[-1][1]["messages"] == [{"role": "user", "content": "two"}]
    assert "+one" not in (home / "history").read_text()


def test_images_are_for_models_that_see(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    text = f"What is {tmp_path}/a.png?"
    assert _message(text, Session("m", {"capabilities": ["vision"]})) == {
        "role": "user", "content": "What is ?", "images": ["iVBORw=="]
    }  # fmt: skip
    assert _message(text, Session("m", {})) == {"role": "user", "content": text}
