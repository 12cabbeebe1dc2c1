"""Where an engine's processes leave their temporary files."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllama.engine.scratch import Scratch


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vllama-") as path:  # a test's own has too long a path
        yield Path(path)


def test_a_folder_of_its_own(folder: Path) -> None:
    first, second = Scratch(folder), Scratch(folder)
    places = [Path(scratch.variables["TMPDIR"]) for scratch in (first, second)]
    assert [scratch.variables["VLLM_RPC_BASE_PATH"] for scratch in (first, second)] == list(map(str, places))
    assert len({*places}) == 2
    (places[0] / "socket").write_text("")
    first.remove()
    first.remove()
    assert list(folder.iterdir()) == [places[1]]


@pytest.mark.parametrize("beside", [None, "long", "missing"])
def test_without_one_it_uses_that_of_all(folder: Path, beside: str | None) -> None:
    long = folder / ("long-" * 20)
    long.mkdir()
    where = {None: None, "long": long, "missing": folder / "x"}[beside]
    scratch = Scratch(where)
    assert scratch.variables == {}
    scratch.remove()
    assert list(folder.iterdir()) == [long]


def test_the_socket_goes_with_it(folder: Path) -> None:
    (folder / "1.sock").write_text("")
    scratch = Scratch(folder, f"unix:{folder}/1.sock")
    scratch.remove()
    scratch.remove()
    assert list(folder.iterdir()) == []
    Scratch(None, "http://127.0.0.1:8000").remove()
