"""Images by their paths in what a person writes."""

import base64

import pytest

from vllama.cli._images import names_image, take_images

CONTENT = b"\x89PNG"
ENCODED = base64.b64encode(CONTENT).decode()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my pictures").mkdir()
    for name in ("a.png", "b.JPG", "my pictures/c.webp", "d.txt", "e.jpeg"):
        (tmp_path / name).write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "left", "count"),
    [
        ("What is ./a.png?", "What is ?", 1),
        ("./a.png and ./b.JPG", "and", 2),
        ("Look: './my pictures/c.webp' nice", "Look:  nice", 1),
        ('"./my pictures/c.webp"', "", 1),
        (r"./my\ pictures/c.webp what?", "what?", 1),
        ("~/e.jpeg", "", 1),
        ("../x.png is not there", "../x.png is not there", 0),
        ("a.png without a folder", "a.png without a folder", 0),
        ("either/or ./d.txt", "either/or ./d.txt", 0),
        ("http://localhost/a.png", "http://localhost/a.png", 0),
    ],
)
def test_taken_from_the_text(folder, capsys, text, left, count):
    assert take_images(text) == (left, [ENCODED] * count)
    assert capsys.readouterr().err.count("Added image") == count


def test_absolute(folder):
    assert take_images(f"{folder}/a.png") == ("", [ENCODED])


def test_a_path_is_no_command(folder):
    assert names_image(f"{folder}/a.png describe it")
    assert not names_image("/set system ./a.png")
    assert not names_image("/nowhere.png")
