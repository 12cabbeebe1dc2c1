"""`vllama engine install`, and how an installation is shown."""

import io
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from vllama.cli import _install, engine
from vllama.cli._progress import show_install
from vllama.engine.install import Environment, InstallStep
from vllama.engine.profile import Profile
from vllama.errors import InstallError


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What `ensure_environment` is called with, in place of an installation."""
    recorded = []

    def ensure(home, **options):
        options.pop("report")(InstallStep("resolving packages"))
        recorded.append({"home": home, **options})
        return Environment(home / "engines/cpu-9.9/bin/python", "9.9", Profile.CPU, home / "flags.json")

    monkeypatch.setattr(_install, "ensure_environment", ensure)
    monkeypatch.setattr(_install, "configured_find_links", lambda environ: ["/configured"])
    monkeypatch.setenv("VLLAMA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("PROFILE", "PYTHON"):
        monkeypatch.delenv(f"VLLAMA_ENGINE_{name}", raising=False)
    monkeypatch.delenv("VLLAMA_FIND_LINKS", raising=False)
    return recorded


def run(*arguments: str):
    return CliRunner().invoke(engine.engine, ["install", *arguments])


def test_install(calls, tmp_path):
    result = run()
    assert result.exit_code == 0, result.output
    assert result.stdout == f"vLLM 9.9 (cpu) in {tmp_path}/engines/cpu-9.9, 0.0 s\n"
    assert result.stderr == "vllama: resolving packages\n"
    assert calls == [
        {"home": tmp_path, "profile": None, "engine_python": None, "find_links": ["/configured"], "reinstall": False}
    ]


def test_options(calls):
    assert run("--profile", "cuda", "--reinstall").exit_code == 0
    assert (calls[0]["profile"], calls[0]["reinstall"]) == (Profile.CUDA, True)
    result = run("--profile", "rocm")
    assert result.exit_code == 2
    assert len(calls) == 1


def test_settings(calls, monkeypatch):
    monkeypatch.setenv("VLLAMA_ENGINE_PROFILE", "cpu")
    monkeypatch.setenv("VLLAMA_ENGINE_PYTHON", "/e/bin/python")
    monkeypatch.setenv("VLLAMA_FIND_LINKS", "/mine")
    assert run().exit_code == 0
    assert calls[0]["profile"] is Profile.CPU
    assert calls[0]["engine_python"] == Path("/e/bin/python")
    assert calls[0]["find_links"] == ["/mine", "/configured"]
    assert run("--profile", "cuda").exit_code == 0
    assert calls[1]["profile"] is Profile.CUDA


def test_failure_is_raised(calls, monkeypatch):
    def fail(*arguments, **options):
        raise InstallError("no luck", "try again")

    monkeypatch.setattr(_install, "ensure_environment", fail)
    result = run()
    assert str(result.exception) == "no luck: try again"


STEPS = (
    InstallStep("resolving packages", None, "vLLM 9.9 for cpu"),
    InstallStep("downloading", 0.0, "torch (150.0 MiB)"),
    InstallStep("downloading", 0.02, "numpy done"),
    InstallStep("the folder [/x] does not exist", warning=True),
    InstallStep("downloading", 0.03, "scipy done"),
    InstallStep("downloading", 1.0, "torch done"),
    InstallStep("reading vLLM's flags"),
)


def test_lines_elsewhere(capsys):
    with show_install() as report:
        for step in STEPS:
            report(step)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "vllama: resolving packages: vLLM 9.9 for cpu\n"
        "vllama: downloading 0%: torch (150.0 MiB)\n"
        "vllama: warning: the folder [/x] does not exist\n"
        "vllama: downloading 100%: torch done\n"
        "vllama: reading vLLM's flags\n"
    )


def test_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with show_install() as report:
        for step in STEPS:
            report(step)
    text = terminal.getvalue()
    assert "vllama: warning: the folder [/x] does not exist" in text
    assert "reading vLLM's flags" in text
    assert text.endswith("\x1b[2K")  # nothing stays on the screen


def test_nothing_to_show(capsys):
    with show_install():
        pass
    assert capsys.readouterr().err == ""
