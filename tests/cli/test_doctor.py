"""`vllama doctor`."""

import json
import socket

import pytest

from tests.cli.test_chat import Terminal
from tests.served import SCRIPT

NOBODY = "http://127.0.0.1:1"
WORDS = {"versions": {"vllm": "0.32.0+cpu", "torch": "2.13.0+cpu"}, "cuda": None, "odds": []}


@pytest.fixture
def free_port():
    with socket.socket() as holding:
        holding.bind(("127.0.0.1", 0))
        port = holding.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """One on which nothing is wrong."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho '{json.dumps(WORDS)}'\n")
    python.chmod(0o755)
    monkeypatch.setenv("VLLAMA_ENGINE_PYTHON", str(python))
    monkeypatch.setenv("VLLAMA_ENGINE_PROFILE", "cpu")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return python


@pytest.fixture
def found(run):
    """What `vllama doctor` finds by what it looked at, and its status."""

    def found(*arguments, url):
        done = run("doctor", "--format", "json", *arguments, url=url)
        assert done.err == ""
        report = json.loads(done.out)
        assert done.code == (1 if report["problems"] else 0)
        findings = {}
        for finding in report["findings"]:
            findings.setdefault(finding["check"], []).append((finding["level"], finding["found"], finding["advice"]))
        return findings

    return found


def test_a_healthy_machine(found, machine, free_port):
    findings = found(url=free_port)
    assert set(findings) >= {"settings", "machine", "processor", "memory", "disk", "engine", "packages", "models"}
    assert findings["engine"] == [("ok", f"vLLM 0.32.0+cpu, torch 2.13.0+cpu, in {machine.parents[1]}", "")]
    assert findings["models"] == [("ok", "3 can be served", "")]
    assert findings["server"][0][1].startswith("none runs; port ")
    assert not any(level == "problem" for entries in findings.values() for level, *_ in entries)


def test_where_nothing_is_right(found, machine, free_port, server, monkeypatch, tmp_path):
    server.answers["GET /api/version"] = (200, {"version": "0.12.0"})
    machine.write_text("#!/bin/sh\necho 'ImportError: no module' >&2\nexit 3\n")
    blob = tmp_path / "hf" / "hub" / "models--org--cut" / "blobs" / "abc.incomplete"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x")
    manifest = tmp_path / "home" / "models" / "manifests" / "h" / "n" / "m" / "t.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{")
    monkeypatch.setenv("VLLAMA_PROT", "1")
    findings = found(url=server.url)
    assert findings["settings"][1:] == [("warning", "nothing reads VLLAMA_PROT", "did you mean VLLAMA_PORT?")]
    assert findings["engine"] == [
        ("problem", f"{machine} fails: ImportError: no module", "run `vllama engine install --reinstall`")
    ]
    level, text, advice = findings["model cache"][1]
    assert (level, text) == ("warning", "org/cut is not completely here (0.0 GB of it unfinished)")
    assert advice.startswith("`vllama pull org/cut` goes on with it")
    assert findings["models"][0][:2] == ("problem", f"{manifest} is no manifest")
    where = server.url
    said = "stop it, or choose another port with --port"
    assert findings["server"] == [("problem", f"{where} is an Ollama's (0.12.0)", said)]


def test_settings_that_cannot_be_read(found, machine, free_port, tmp_path):
    (tmp_path / "vllama.toml").write_text("prot = 1\n")
    (finding,) = found(url=free_port)["settings"]
    assert finding == ("problem", "unknown setting 'prot' in vllama.toml", "did you mean 'port'?")


def test_without_an_engine(found, machine, free_port, monkeypatch):
    monkeypatch.delenv("VLLAMA_ENGINE_PYTHON")
    advice = "`vllama engine install` builds it, or the first `vllama serve`"
    assert found(url=free_port)["engine"] == [("warning", "not installed", advice)]


def test_our_own_server(found, machine, server):
    failed = {"name": "demo:latest", "state": "failed", "error": "out of memory: free some"}
    server.answers = {
        "GET /api/version": (200, {"version": "0.12.0", "vllama": "0.1.0"}),
        "GET /api/engines": (200, {"engines": [failed], "standby": {"state": "failed", "reason": "it was killed"}}),
    }
    assert found(url=server.url)["server"] == [
        ("ok", f"vLLama 0.1.0 runs at {server.url}", ""),
        ("warning", "out of memory: free some", "`vllama logs demo:latest`"),
        ("warning", "the standby failed: it was killed", "models start slowly: `vllama logs standby`"),
    ]


def test_something_else_at_the_port(found, machine, server):
    server.answers["GET /api/version"] = (200, "<html>")
    (finding,) = found(url=server.url)["server"]
    assert finding[:2] == ("problem", f"{server.url} is taken by something else")


def test_in_words(run, machine, free_port, monkeypatch):
    monkeypatch.setenv("VLLAMA_PROT", "1")
    done = run("doctor", url=free_port)
    assert "\nok       engine         vLLM 0.32.0+cpu" in done.out
    assert "\nwarning  settings       nothing reads VLLAMA_PROT\n" in done.out
    assert "\n                        -> did you mean VLLAMA_PORT?\n" in done.out
    assert done.out.splitlines()[-1].startswith("no problems, ")
    assert done.out.isascii()


def test_on_a_terminal(machine, free_port, tmp_path):
    terminal = Terminal(
        SCRIPT, "doctor", OLLAMA_HOST=free_port, VLLAMA_HOME=str(tmp_path / "home"), HF_HOME=str(tmp_path / "hf"),
        VLLAMA_ENGINE_PYTHON=str(machine), VLLAMA_ENGINE_PROFILE="cpu", VLLAMA_PROT="1",
    )  # fmt: skip
    try:
        terminal.expect("!  settings       nothing reads VLLAMA_PROT")
        terminal.expect("→ did you mean VLLAMA_PORT?")
        terminal.expect("✓  engine         vLLM 0.32.0+cpu")
        terminal.expect("no problems, ")
        assert terminal.process.wait(10) == 0
    finally:
        terminal.close()
