"""Ollama's own variables, as Ollama reads them."""

import pytest

from vllama.ollama_variables import parse_ollama_host


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("1.2.3.4", "1.2.3.4", 11434),
        (":1234", "0.0.0.0", 1234),
        ("1.2.3.4:", "1.2.3.4", 11434),
        ("example.com", "example.com", 11434),
        ("example.com:1234", "example.com", 1234),
        ("example.com:", "example.com", 11434),
        ("http://1.2.3.4", "1.2.3.4", 80),
        ("https://1.2.3.4", "1.2.3.4", 443),
        ("http://1.2.3.4:5", "1.2.3.4", 5),
        ("https://example.com:5", "example.com", 5),
        ("https://example.com/ollama", "example.com", 443),
        ("example.com:56789/ollama", "example.com", 56789),
        ("1.2.3.4:0", "1.2.3.4", 0),
        (":0", "0.0.0.0", 0),
        (":66000", "0.0.0.0", 11434),
        (":-1", "0.0.0.0", 11434),
        (":x", "0.0.0.0", 11434),
        (":²", "0.0.0.0", 11434),
        ("http://h:x", "h", 80),
        ("[::1]", "::1", 11434),
        ("[::]:1234", "::", 1234),
        ("[::]:", "::", 11434),
        ("::1", "::1", 11434),
        ("http://[::1]", "::1", 80),
        ("http://[::1]:5/x", "::1", 5),
        ("", "127.0.0.1", 11434),
        ("/", "127.0.0.1", 11434),
    ],
)
def test_ollama_host(text, host, port):
    assert parse_ollama_host(text) == (host, port)
