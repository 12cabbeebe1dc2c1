"""How an answer is waited for."""

import io
import sys
import threading

from vllama.cli._answer import waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Timer:
    """One that rings when the test wants it to."""

    def __init__(self, _seconds, ring, words):
        self.ring, self.words, self.cancelled = ring, words, False

    def start(self):
        """Nothing happens by itself."""

    def cancel(self):
        self.cancelled = True


def test_who_waits_long_is_told_why(monkeypatch):
    terminal, made = Terminal(), []
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(threading, "Timer", lambda *given: made.append(Timer(*given)) or made[0])
    with waiting():
        (timer,) = made
        assert "loading" not in terminal.getvalue()
        timer.ring(*timer.words)
    assert "the model is loading, or busy" in terminal.getvalue()  # drawn by the time it ends
    assert timer.cancelled


def test_a_pipe_sees_nothing_of_it(capsys):
    with waiting():
        pass
    assert capsys.readouterr() == ("", "")
