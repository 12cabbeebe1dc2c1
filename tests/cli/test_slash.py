"""What an interactive chat does with a line that begins with a slash."""

from types import SimpleNamespace

import pytest

from vllama.cli import _slash_help
from vllama.cli._session import Session
from vllama.cli._slash import Commands, Leave

SHOWN = {
    "capabilities": ["completion", "vision"],
    "license": "MIT",
    "modelfile": "FROM m",
    "template": "{{ messages }}",
    "parameters": "stop                           \"x\"",
    "details": {"family": "llama"},
    "model_info": {},
}  # fmt: skip


@pytest.fixture
def commands():
    def open_session(name: str) -> Session:
        return Session(name, {})

    return Commands(Session("m", dict(SHOWN)), None, SimpleNamespace(remember=True), open_session)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/?", _slash_help.COMMANDS + _slash_help.IMAGES),
        ("/help", _slash_help.COMMANDS + _slash_help.IMAGES),
        ("/? set", _slash_help.SET),
        ("/? /show", _slash_help.SHOW),
        ("/? shortcuts", _slash_help.SHORTCUTS),
        ("/? set parameter", _slash_help.PARAMETERS),
        ("/set", _slash_help.SET),
        ("/set parameter", _slash_help.PARAMETERS),
        ("/set parameter seed", _slash_help.PARAMETERS),
        ("/set parameter nope 1", "Couldn't set parameter: unknown parameter 'nope'"),
        ("/set parameter seed x", "Couldn't set parameter: invalid int value [x]"),
        ("/set system", _slash_help.SET),
        ("/set nope", "Unknown command '/set nope'. Type /? for help"),
        ("/set format", "Invalid or missing format. For 'json' mode use '/set format json'"),
        ("/set think", 'warning: model "m" does not support thinking output'),
        ("/show", _slash_help.SHOW),
        ("/show nope", "Unknown command '/show nope'. Type /? for help"),
        ("/show license", "MIT\n"),
        ("/show modelfile", "FROM m\n"),
        ("/show template", "{{ messages }}\n"),
        ("/show system", "No system message was specified for this model."),
        ("/show info", "  Model\n    architecture    llama\n\n  Capabilities\n    completion\n    vision\n\n"
         "  Parameters\n    stop    \"x\"\n\n  License\n    MIT\n\n"),
        ("/show parameters", "Model defined parameters:\n  stop                           \"x\"\n"),
        ("/load", "Usage:\n  /load <modelname>"),
        ("/save", "Usage:\n  /save <modelname>"),
        ("/nope x", "Unknown command '/nope'. Type /? for help"),
    ],
)  # fmt: skip
def test_replies(commands, line, said):
    assert commands.takes(line)
    assert commands.run(line) == said


@pytest.mark.parametrize(
    ("line", "said", "field", "value"),
    [
        ("/set system Be a pirate.\nArr.", "Set system message.", "system", "Be a pirate.\nArr."),
        ("/set format json", "Set format to 'json' mode.", "format", "json"),
        ("/set noformat", "Disabled format.", "format", None),
        ("/set nothink", "Set 'nothink' mode.", "think", False),
        ("/set parameter stop a b", "Set parameter 'stop' to 'a, b'", "options", {"stop": ["a", "b"]}),
        ("/set parameter seed 7", "Set parameter 'seed' to '7'", "options", {"seed": 7}),
        ("/clear", "Cleared session context", "messages", []),
    ],
)
def test_changes_of_the_session(commands, line, said, field, value):
    commands.session.messages.append({"role": "user", "content": "x"})
    assert commands.run(line) == said
    assert getattr(commands.session, field) == value


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/set nowordwrap", "wrap", False),
        ("/set wordwrap", "wrap", True),
        ("/set verbose", "verbose", True),
        ("/set quiet", "verbose", False),
    ],
)
def test_changes_of_the_style(commands, line, field, value):
    assert commands.run(line) == f"Set '{line.split()[1]}' mode."
    assert getattr(commands.session.style, field) is value


def test_think_with_a_level(commands):
    commands.session.shown["capabilities"] = ["thinking"]
    assert commands.run("/set think high") == "Set 'think' mode to 'high'."
    assert commands.session.think == "high"
    assert commands.run("/set think") == "Set 'think' mode."
    assert commands.session.think is True


def test_what_was_set_is_shown(commands):
    commands.run("/set system Sing.")
    commands.run("/set parameter seed 7")
    assert commands.run("/show system") == "Sing.\n"
    assert commands.run("/show parameters").endswith(
        "\n\nUser defined parameters:\n  seed                           7\n"
    )
    assert commands.session.chat_request()["messages"] == [{"role": "system", "content": "Sing."}]


def test_load(commands, capsys):
    assert commands.run("/load other") == ""
    assert commands.session.model == "other"
    assert capsys.readouterr().out == "Loading model 'other'\n"


@pytest.mark.parametrize("line", ["/bye", "/exit"])
def test_leaving(commands, line):
    with pytest.raises(Leave):
        commands.run(line)


def test_messages_are_not_for_it(commands, tmp_path):
    (tmp_path / "a.png").touch()
    assert not commands.takes("what is /this")
    assert not commands.takes(f"{tmp_path}/a.png")
    commands.session.shown["capabilities"] = []
    assert commands.takes(f"{tmp_path}/a.png")
