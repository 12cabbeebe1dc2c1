"""The line editor of the interactive chat."""

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from vllama.cli._prompt import Prompt


@pytest.fixture
def typed():
    """`typed(text)`: what is typed from now on."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys.send_text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("one\r", "one"),
        ('"""one\rtwo"""\r', "one\ntwo"),
        ('"""one"""\r', "one"),
        ('"""\rone\r"""\r', "\none\n"),
        ('/set system """one\rtwo"""\r', "/set system one\ntwo"),
        ('say """ no more\r', 'say """ no more'),
        ("\x1b[200~one\ntwo\x1b[201~\r", "one\ntwo"),
        ("two\x01one \r", "one two"),
        ("one two\x17\r", "one "),
    ],
)
def test_messages(typed, tmp_path, keys, message):
    typed(keys)
    assert Prompt(tmp_path / "history").read() == message


def test_leaving(typed, tmp_path):
    prompt = Prompt(tmp_path / "history")
    typed("\x04")
    with pytest.raises(EOFError):
        prompt.read()
    typed("\x03")
    with pytest.raises(KeyboardInterrupt):
        prompt.read()
    assert prompt.is_empty
    typed("half\x03")
    with pytest.raises(KeyboardInterrupt):
        prompt.read()
    assert not prompt.is_empty


def test_history(typed, tmp_path, monkeypatch):
    file = tmp_path / "home" / "history"
    typed("one\r")
    Prompt(file).read()
    typed("\x1b[A\r")  # up
    assert Prompt(file).read() == "one"
    monkeypatch.setenv("OLLAMA_NOHISTORY", "1")
    typed("secret\r")
    Prompt(file).read()
    assert "secret" not in file.read_text()


def test_history_that_cannot_be_kept(typed, tmp_path):
    (tmp_path / "home").touch()
    typed("one\r")
    assert Prompt(tmp_path / "home" / "history").read() == "one"
