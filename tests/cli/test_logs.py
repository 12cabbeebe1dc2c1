"""`vllama logs`."""

import logging
import logging.handlers

import pytest

from tests.cli.test_chat import CTRL_C, Terminal
from tests.served import SCRIPT
from vllama.cli._log_file import LogFile

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "home" / "logs"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def log(folder):
    path = folder / "demo-latest.log"
    path.write_text("".join(f"line {number}\n" for number in range(1, 201)))
    return path


@pytest.mark.parametrize("name", ["demo", "demo:latest", "demo-latest", ""])
def test_without_a_server(run, log, folder, name):
    (folder / "standby.log").write_text("parked\n")
    done = run("logs", *filter(None, [name]), "-n", "2", url=NOBODY)
    assert (done.code, done.out, done.err) == (0, "line 199\nline 200\n", "")
    assert run("logs", "standby", url=NOBODY).out == "parked\n"


@pytest.mark.parametrize(("lines", "count"), [((), 100), (("-n", "0"), 0), (("--lines", "all"), 200)])
def test_how_many_lines(run, log, lines, count):
    assert len(run("logs", "demo", *lines, url=NOBODY).out.splitlines()) == count


def test_where_the_server_says(run, server, tmp_path):
    path = tmp_path / "elsewhere.log"
    path.write_text("here\n")
    engine = {"name": "demo:latest", "models": ["demo:latest", "pirate:latest"], "log": str(path)}
    server.answers["GET /api/engines"] = (200, {"engines": [engine]})
    assert run("logs", "Pirate", url=server.url).out == "here\n"
    path.unlink()
    said = f"there is no {path} on this machine: the log lies where the server runs"
    assert run("logs", "demo", url=server.url).err == f"vllama: {said}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x",), "there is no log of 'x': there are demo-latest, other-latest"),
        ((), "there are several logs, or none: name a model: there are demo-latest, other-latest"),
        (("demo", "-n", "few"), "bad value 'few' for --lines: give a number, or all"),
    ],
)
def test_refusals(run, log, folder, arguments, said):
    (folder / "other-latest.log").write_text("")
    done = run("logs", *arguments, url=NOBODY)
    assert (done.code, done.out, done.err) == (1, "", f"vllama: {said}\n")


def test_before_there_are_any(run):
    assert run("logs", "demo", url=NOBODY).err == "vllama: there is no log of 'demo': none was written yet\n"


def test_lines_that_were_rotated_away(log):
    handler = logging.handlers.RotatingFileHandler(log, maxBytes=1, backupCount=3)
    for text in ("one", "two", "three"):
        handler.emit(logging.LogRecord("", 0, "", 0, text, None, None))
    handler.close()
    with LogFile(log) as file:
        assert file.tail(4) == ["line 200\n", "one\n", "two\n", "three\n"]
    with LogFile(log) as file:
        assert len(file.tail(None)) == 203


def test_what_is_added(log):
    with LogFile(log) as file:
        file.tail(1)
        assert file.more() == ""
        with log.open("a") as writing:
            writing.write("new\n")
        assert file.more() == "new\n"
        with log.open("a") as writing:
            writing.write("last\n")
        log.rename(log.with_name("demo-latest.log.1"))
        assert file.more() == "last\n"
        assert file.more() == ""  # there is no new one yet
        log.write_text("first\n")
        assert file.more() == "first\n"
        log.write_text("cut\n")
        assert file.more() == "cut\n"


def test_following(log, tmp_path):
    terminal = Terminal(SCRIPT, "logs", "demo", "-f", "-n", "1", OLLAMA_HOST=NOBODY, VLLAMA_HOME=str(tmp_path / "home"))
    try:
        terminal.expect("line 200\n")
        with log.open("a") as writing:
            writing.write("line 201\n")
        terminal.expect("line 201\n")
        terminal.write(CTRL_C)
        assert terminal.process.wait(10) == 0
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()
