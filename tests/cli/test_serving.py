"""Loads below the log of `vllama serve` on a terminal."""

import io
import logging
import re
import sys

import pytest

from vllama.cli._serving import loads_shown
from vllama.engine.engine import State
from vllama.engine.progress import Phase, Step
from vllama.progress_log import LoadLog
from vllama.scheduling.report import Report

LOADING = Report(
    "w", ("demo:latest",), State.STARTING, Phase.READING, 0.5, "1 of 2", (Step(Phase.IMPORTING, 3.0),), seconds=5.0
)


class Terminal(io.StringIO):
    def isatty(self):
        return True

    @property
    def lines(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.getvalue())


@pytest.fixture
def on_terminal(monkeypatch):
    def on_terminal():
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "60")
        return terminal

    return on_terminal


def test_the_log_goes_on_above(on_terminal):
    terminal = on_terminal()
    with loads_shown() as show:
        print("before", file=sys.stderr)
        logger = logging.StreamHandler(sys.stderr)
        assert terminal.getvalue() == "before\n"
        show([LOADING])
        assert "demo:latest: reading weights" in terminal.lines
        words = "a line that is longer than the terminal is wide, and is not torn by that"
        logger.emit(logging.LogRecord("", logging.INFO, "", 0, words, None, None))
        assert f"{words}\n" in terminal.lines
        show([])
        assert terminal.getvalue().endswith("\x1b[2K")
        print("after", file=sys.stderr)
    assert terminal.getvalue().endswith("\x1b[2Kafter\n")
    assert "\x1b[?25l" not in terminal.getvalue()  # the cursor stays


def test_nothing_stays_when_the_server_ends(on_terminal):
    terminal = on_terminal()
    with loads_shown() as show:
        show([LOADING])
    assert sys.stderr is terminal
    assert terminal.getvalue().endswith("\x1b[2K")


def test_elsewhere_it_is_the_log():
    with loads_shown() as show:
        assert isinstance(show, LoadLog)
