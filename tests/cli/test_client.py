"""What commands say when the server is not there, or refuses."""

import socket

import pytest


def test_no_server(run):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = run("ps", url=url)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"vllama: could not connect to vllama server at {url}: start it with `vllama serve`\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, {"error": "not for you"}), "not for you"),
        ((502, "<html>\n"), "<html>"),
        ((500, ""), "500 Internal Server Error"),
        ((400, {"error": {"message": "an error of another kind"}}), "{'message': 'an error of another kind'}"),
        ((200, "no JSON"), "the server answered what is no JSON: 'no JSON': is it vLLama or Ollama?"),
    ],
)
def test_refused(run, server, answer, said):
    server.answers["GET /api/tags"] = answer
    done = run("list", url=server.url)
    assert (done.code, done.out, done.err) == (1, "", f"vllama: {said}\n")


def test_the_key_is_sent(run, server, monkeypatch):
    server.answers["GET /api/tags"] = (200, {"models": []})
    run("list", url=server.url)
    monkeypatch.setenv("OLLAMA_API_KEY", "secret")
    run("list", url=server.url)
    assert [headers.get("Authorization") for headers in server.headers] == [None, "Bearer secret"]


def test_a_proxy_is_not_asked(run, server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.answers["GET /api/tags"] = (200, {"models": []})
    assert run("list", url=server.url).code == 0


def test_a_connection_that_is_cut(run):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        import threading

        def cut():
            connection, _ = listening.accept()
            connection.close()

        thread = threading.Thread(target=cut)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        done = run("ps", url=url)
        thread.join()
    assert done.err == f"vllama: the server at {url} closed the connection: look at its log\n"
