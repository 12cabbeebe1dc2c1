"""Wheel folders from the configuration of uv and pip."""

import http.server
import os
import sys
import threading
from pathlib import Path

import pytest

from vllama.engine import _find_links
from vllama.engine._find_links import configured_find_links, list_wheels, resolve_links


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No configuration but the test's own: its home, working folder and "system" are below tmp_path."""
    for folder in ("home", "cwd", "site", "etc"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "site"))
    monkeypatch.setattr(_find_links, "_SYSTEM_PIP_CONFIG", tmp_path / "etc/pip.conf")
    monkeypatch.setattr(_find_links, "_SYSTEM_UV_CONFIG", tmp_path / "etc/uv.toml")


def links(tmp_path: Path, **environ: str) -> list[str]:
    return configured_find_links({"HOME": str(tmp_path / "home"), "XDG_CONFIG_DIRS": str(tmp_path / "xdg"), **environ})


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_nothing_configured(tmp_path):
    assert links(tmp_path) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/wheels", ["/wheels"]),
        ("/a,/b", ["/a", "/b"]),
        (" /a , ,/b,", ["/a", "/b"]),
        ("/with space", ["/with space"]),
        ("wheels", ["{cwd}/wheels"]),
        ("./wheels/../other", ["{cwd}/other"]),
        ("~/wheels", ["{home}/wheels"]),
        ("~", ["{home}"]),
        ("file:///srv/my%20wheels", ["/srv/my wheels"]),
        ("https://example.org/torch.html", ["https://example.org/torch.html"]),
        ("/a,/a", ["/a"]),
    ],
)
def test_uv_variable(tmp_path, value, expected):
    places = {"cwd": tmp_path / "cwd", "home": tmp_path / "home"}
    assert links(tmp_path, UV_FIND_LINKS=value) == [link.format(**places) for link in expected]


def test_pip_variable_is_separated_by_blanks(tmp_path):
    assert links(tmp_path, PIP_FIND_LINKS="/a  https://example.org/b\n/c") == ["/a", "https://example.org/b", "/c"]


@pytest.mark.parametrize(
    "file", ["etc/pip.conf", "xdg/pip/pip.conf", "home/.pip/pip.conf", "home/.config/pip/pip.conf", "site/pip.conf"]
)
def test_pip_files(tmp_path, file):
    write(tmp_path / file, "[global]\nfind-links = /wheels\n")
    assert links(tmp_path) == ["/wheels"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[global]\nfind-links = /a /b\n", ["/a", "/b"]),
        ("[global]\nfind-links =\n    /a\n    https://example.org/b\n", ["/a", "https://example.org/b"]),
        ("[install]\nfind_links = /a\n[global]\nFind-Links: /b\n", ["/a", "/b"]),
        ("[global]\nindex-url = https://user:p%ss@example.org/simple\nfind-links = /a\n", ["/a"]),
        ("[wheel]\nfind-links = /a\n", []),
        ("[global]\ntimeout = 60\n", []),
        ("find-links = /no/section\n", []),
        ("", []),
    ],
)
def test_pip_file_contents(tmp_path, text, expected):
    write(tmp_path / "pip.conf", text)
    assert links(tmp_path, PIP_CONFIG_FILE=str(tmp_path / "pip.conf")) == expected


def test_pip_config_file_of_null_turns_pip_files_off(tmp_path):
    write(tmp_path / "etc/pip.conf", "[global]\nfind-links = /wheels\n")
    assert links(tmp_path, PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="/a") == ["/a"]


@pytest.mark.parametrize("file", ["etc/uv.toml", "xdg/uv/uv.toml", "home/.config/uv/uv.toml"])
@pytest.mark.parametrize("text", ['find-links = ["/wheels"]', '[pip]\nfind-links = ["/wheels"]'])
def test_uv_files(tmp_path, file, text):
    write(tmp_path / file, text)
    assert links(tmp_path) == ["/wheels"]
    assert links(tmp_path, UV_NO_CONFIG="1") == []


def test_uv_config_file_replaces_the_others(tmp_path):
    write(tmp_path / "etc/uv.toml", 'find-links = ["/unused"]')
    write(tmp_path / "own/uv.toml", 'find-links = ["wheels"]')
    assert links(tmp_path, UV_CONFIG_FILE=str(tmp_path / "own/uv.toml")) == [str(tmp_path / "own/wheels")]


@pytest.mark.parametrize("text", ["not toml", "find-links = 3", "pip = 3"])
def test_uv_file_that_is_wrong(tmp_path, text):
    write(tmp_path / "etc/uv.toml", text)
    assert links(tmp_path) == []


def test_order_and_duplicates(tmp_path):
    write(tmp_path / "etc/pip.conf", "[global]\nfind-links = /pip /uv\n")
    write(tmp_path / "etc/uv.toml", 'find-links = ["/uv"]')
    assert links(tmp_path, UV_FIND_LINKS="/first,/pip", PIP_FIND_LINKS="/last") == ["/first", "/pip", "/uv", "/last"]


def test_resolve_links(tmp_path):
    assert resolve_links(["wheels", "~/w", "wheels"], {"HOME": "/h"}) == [str(tmp_path / "cwd/wheels"), "/h/w"]


def test_list_wheels_in_folders(tmp_path):
    for name in ("b-1-py3-none-any.whl", "a-1-py3-none-any.whl", "c-1.tar.gz"):
        (tmp_path / "cwd" / name).touch()
    assert list_wheels([str(tmp_path / "cwd"), str(tmp_path / "none")]) == [
        "a-1-py3-none-any.whl",
        "b-1-py3-none-any.whl",
    ]


def test_list_wheels_on_a_page(page_of_wheels):
    name = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert list_wheels([f"{page_of_wheels}/index.html"]) == [name]
    assert list_wheels([f"{page_of_wheels}/missing", "http://127.0.0.1:9/", "http://[bad"]) == []


@pytest.fixture
def page_of_wheels():
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'<a href="/f/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl#sha256=1">torch</a>'
            self.send_response(200 if self.path == "/index.html" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
