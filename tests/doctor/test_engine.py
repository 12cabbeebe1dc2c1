"""The engine's environment."""

import importlib.metadata
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vllama.doctor import _packages, engine
from vllama.engine._host import Gpu, Nvidia
from vllama.engine.install import pinned_version
from vllama.engine.profile import Profile
from vllama.errors import InstallError
from vllama.settings import Settings

PINNED = pinned_version(Profile.CUDA)
GPU = (Gpu("H100", (9, 0)),)


@pytest.fixture
def check(monkeypatch, tmp_path):
    """What is found where the engine's interpreter prints this."""

    def check(nvidia=Nvidia(), deep=False, **packages):  # noqa: B008 - it is frozen
        document = {"versions": {"vllm": PINNED}, "cuda": None, "odds": []} | packages
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\ncase $2 in -c) echo noise; echo 1.2.3;; *) echo '{json.dumps(document)}';; esac")
        python.chmod(0o755)
        monkeypatch.setattr(engine, "read_nvidia", lambda: nvidia)
        found = engine.check(Settings(engine_python=python), deep=deep)
        return {finding.check: (finding.level.value, finding.found) for finding in found}

    return check


@pytest.mark.parametrize(
    ("versions", "level"), [({"vllm": PINNED}, "ok"), ({"vllm": "0.1.0"}, "warning"), ({"torch": "2"}, "problem")]
)
def test_versions(check, versions, level):
    assert check(versions=versions)["engine"][0] == level


def test_packages_at_odds(check):
    odds = [["torchvision", "vllm needs torchvision, it is not there"], ["numpy", "vllm needs numpy<2, it is 2.1"]]
    assert check(odds=odds)["packages"] == ("warning", "vllm needs numpy<2, it is 2.1")
    assert check(odds=odds[:1])["packages"][0] == "ok"


@pytest.mark.parametrize(
    ("cuda", "nvidia", "expected"),
    [
        (None, Nvidia(), None),
        (None, Nvidia(GPU, (13, 0)), ("warning", "the engine is built for the processor: the GPU is not used")),
        ("13.0", Nvidia(), ("problem", "the engine is built for CUDA 13.0, and there is no GPU")),
        ("13.0", Nvidia(GPU, (12, 8)), ("problem", "the engine is built for CUDA 13.0, the driver runs 12.8")),
        ("13.1", Nvidia(GPU, (13, 0)), ("ok", "the engine is built for 13.1, which the driver runs")),
    ],
)
def test_cuda(check, cuda, nvidia, expected):
    assert check(cuda=cuda, nvidia=nvidia).get("CUDA") == expected


def test_deep(check):
    assert check(deep=True)["engine"] == ("ok", "vLLM 1.2.3 can be imported")


def test_an_engine_of_somebody_else():
    (finding,) = engine.check(Settings(engine_url="http://gpu:8000"))
    assert (finding.level, finding.found) == ("ok", "somebody else's, at http://gpu:8000")


def test_no_interpreter(tmp_path):
    with pytest.raises(InstallError, match="is no interpreter that can be run: correct VLLAMA_ENGINE_PYTHON"):
        list(engine.check(Settings(engine_python=tmp_path / "none")))


def test_an_interpreter_that_hangs(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(engine, "_LOOK_S", 0.1)
    with pytest.raises(InstallError, match="gave no answer for 0 s"):
        list(engine.check(Settings(engine_python=python)))


def test_what_the_interpreter_prints():
    done = subprocess.run([sys.executable, "-I", _packages.__file__], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    assert printed["versions"]["starlette"] == importlib.metadata.version("starlette")
    assert printed["cuda"] is None


def test_odds(monkeypatch):
    needs = ["there>=2", "here>=1; python_version < '3'", "extra; extra == 'x'", "Gone", "here>=1", "!! broken"]
    one = SimpleNamespace(requires=needs, metadata={"Name": "one"})
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [one])
    assert list(_packages.odds({"there": "1.0", "Here": "1.0rc1"})) == [
        ("there", "one needs there>=2, it is 1.0"),
        ("Gone", "one needs Gone, it is not there"),
        ("here", "one needs here>=1, it is 1.0rc1"),
    ]
