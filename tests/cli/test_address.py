"""Where commands look for the server."""

import pytest

from vllama.cli._address import named_url, server_url
from vllama.errors import VllamaError
from vllama.settings import load


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "http://127.0.0.1:11434"),
        ({"OLLAMA_HOST": "gpu:1234"}, "http://gpu:1234"),
        ({"OLLAMA_HOST": "0.0.0.0"}, "http://127.0.0.1:11434"),
        ({"OLLAMA_HOST": ":8080"}, "http://127.0.0.1:8080"),
        ({"OLLAMA_HOST": "[::]:8080"}, "http://[::1]:8080"),
        ({"OLLAMA_HOST": "[fe80::1]:8080"}, "http://[fe80::1]:8080"),
        ({"OLLAMA_HOST": "https://gpu.example.com"}, "https://gpu.example.com:443"),
        ({"OLLAMA_HOST": "'https://gpu.example.com/ollama/'"}, "https://gpu.example.com:443/ollama"),
        ({"OLLAMA_HOST": "https://gpu", "VLLAMA_HOST": "here"}, "http://here:443"),
        ({"VLLAMA_PORT": "9"}, "http://127.0.0.1:9"),
    ],
)
def test_address(monkeypatch, tmp_path, variables, url):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("OLLAMA_HOST", "VLLAMA_HOST", "VLLAMA_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert server_url(load()) == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("gpu", "http://gpu:11434"),
        ("gpu:1234", "http://gpu:1234"),
        ("http://gpu:1234/", "http://gpu:1234"),
        ("https://gpu.example.com/ollama/", "https://gpu.example.com:443/ollama"),
        (":1234", "http://127.0.0.1:1234"),
        ("[::1]:1234", "http://[::1]:1234"),
    ],
)
def test_a_server_that_an_option_names(text, url):
    assert named_url(text, "--url") == url


@pytest.mark.parametrize("text", ["", "/", "http://", "ftp://gpu", "unix:/tmp/x"])
def test_what_names_no_server(text):
    with pytest.raises(VllamaError, match="for --url: give http://host:port or https://host"):
        named_url(text, "--url")
