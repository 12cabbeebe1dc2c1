"""`vllama merge`, with a stand-in for the merging itself."""

from pathlib import Path
from typing import Any

import pytest

from vllama import cli, demo
from vllama.cli import _install
from vllama.engine import install
from vllama.engine import merge as module
from vllama.engine.install import Environment, InstallStep
from vllama.engine.profile import Profile
from vllama.models.names import parse
from vllama.models.store import Store

ADAPTER = Path(demo.__file__).parent / "adapter"


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Path, ...]]:
    recorded: list[tuple[Path, ...]] = []
    environment = Environment(tmp_path / "python", "9.9", Profile.CPU, tmp_path / "flags.json")

    def merge(adapter: Path, base: Path, output: Path, used: Environment, report: Any, links: list[str]) -> Path:
        assert links == ["/wheels", "/configured"]
        assert used is environment
        report(InstallStep("merging", 0.5))
        recorded.append((adapter, base, output))
        return demo.CHAT

    monkeypatch.setattr(module, "merge", merge)
    monkeypatch.setattr(_install, "install_engine", lambda settings: environment)
    monkeypatch.setattr(install, "configured_find_links", lambda environ: ["/configured"])
    monkeypatch.setenv("VLLAMA_FIND_LINKS", "/wheels")
    monkeypatch.setenv("VLLAMA_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return recorded


@pytest.mark.parametrize(("options", "name"), [((), "parrot"), (("--output", "bird:2"), "bird:2")])
def test_merge(
    merges: list[tuple[Path, ...]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, ...],
    name: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", f"parrot={ADAPTER}", *options])
    assert ended.value.code == 0
    folder = tmp_path / "models" / "merged" / name.replace(":", "-")
    assert merges == [(ADAPTER, demo.CHAT, folder)]
    out, err = capsys.readouterr()
    assert out == f"{parse(name).short}: parrot:latest merged into demo:latest, in {demo.CHAT}\n"
    assert err == "vllama: merging 50%\n"
    stored = Store(tmp_path / "models").read(parse(name))
    assert stored is not None
    assert stored.manifest.parent == "demo:latest"


def test_an_error_is_one_line(merges: list[tuple[Path, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["merge", "nobody"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "vllama: model 'nobody' not found: write `vllama merge nobody=FOLDER@BASE`\n"
    assert merges == []
