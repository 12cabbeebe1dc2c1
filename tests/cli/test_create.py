"""`vllama create`."""

import hashlib
import json

import pytest


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


WEIGHTS, CONFIG = b"weights" * 1000, b"{}"


@pytest.fixture
def folder(tmp_path):
    """A model and an adapter beside a Modelfile, with files that are of no use."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "model" / "config.json").write_bytes(CONFIG)
    (tmp_path / "model" / "optimizer.pt").write_bytes(b"x")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"adapter")
    return tmp_path


@pytest.fixture
def created(run, server, folder):
    """`created(text)`: what `vllama create` of it did."""
    server.answers["POST /api/create"] = [{"status": "writing manifest"}, {"status": "success"}]
    for content in (WEIGHTS, CONFIG, b"adapter"):
        server.answers[f"POST /api/blobs/{digest(content)}"] = (201, "")

    def created(text: str, *more: str):
        (folder / "Modelfile").write_text(text)
        return run("create", "mine", "-f", str(folder / "Modelfile"), *more, url=server.url)

    return created


def test_from_another_model(created, server):
    done = created(
        'FROM demo\nSYSTEM """Be\nbrief."""\nPARAMETER temperature 0.5\nPARAMETER stop a\nPARAMETER stop b\n'
        "MESSAGE user Hi\nLICENSE MIT\nREQUIRES v0.14.0\nTEMPLATE {{ messages }}\n"
    )
    assert (done.code, done.out, done.err) == (0, "", "writing manifest\nsuccess\n")
    assert server.asked == [
        (
            "POST /api/create",
            {
                "model": "mine",
                "from": "demo",
                "system": "Be\nbrief.",
                "template": "{{ messages }}",
                "parameters": {"temperature": 0.5, "stop": ["a", "b"]},
                "messages": [{"role": "user", "content": "Hi"}],
                "license": ["MIT"],
                "requires": "0.14.0",
            },
        )
    ]


def test_from_folders(created, server):
    server.answers[f"HEAD /api/blobs/{digest(CONFIG)}"] = (200, "")  # it is there already
    done = created("FROM ./model\nADAPTER adapter\n")
    assert done.code == 0, done.err
    assert server.asked[-1][1] == {
        "model": "mine",
        "files": {"config.json": digest(CONFIG), "model.safetensors": digest(WEIGHTS)},
        "adapters": {"adapter_model.safetensors": digest(b"adapter")},
    }
    sent = {call: body for call, body in server.asked if call.startswith("POST /api/blobs")}
    assert sent == {
        f"POST /api/blobs/{digest(WEIGHTS)}": WEIGHTS,
        f"POST /api/blobs/{digest(b'adapter')}": b"adapter",
    }
    assert "copying model.safetensors 100% of 7 KB" in done.err


def test_from_a_pipe(run, server, created, folder):
    done = run("create", "mine", "-f", "-", "-q", "q4_K_M", url=server.url, stdin="FROM demo\n")
    assert done.code == 0
    assert server.asked == [("POST /api/create", {"model": "mine", "from": "demo", "quantize": "q4_K_M"})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM ./nowhere", "(line 1): FROM: there is no {folder}/nowhere"),
        ("FROM demo\nADAPTER nowhere", "(line 2): ADAPTER: there is no {folder}/nowhere"),
        ("FROM ./empty", "(line 1): FROM: {folder}/empty holds no *.safetensors files"),
        ("FROM demo\nPARAMETER heat 1", "(line 2): unknown parameter 'heat'"),
    ],
)
def test_nothing_is_asked_for_what_cannot_be(created, server, folder, text, said):
    (folder / "empty").mkdir()
    done = created(text)
    assert (done.code, done.err) == (1, f"vllama: {said.format(folder=folder)}\n")
    assert server.asked == []


def test_nothing_is_sent_for_a_name_that_is_none(run, server, folder):
    (folder / "Modelfile").write_text("FROM ./model")
    done = run("create", "a b", "-f", str(folder / "Modelfile"), url=server.url)
    assert (done.code, done.err, server.asked) == (1, "vllama: invalid model name\n", [])


def test_what_has_no_effect_is_said(created):
    assert created("FROM demo\nPARAMETER mirostat 1").err.startswith("warning: parameter mirostat is deprecated\n")


def test_without_a_modelfile(run, server):
    done = run("create", "mine", url=server.url)
    assert done.err == ("vllama: the Modelfile Modelfile cannot be read (No such file or directory): name it with -f\n")


def test_an_upload_that_is_refused(created, server):
    server.answers[f"POST /api/blobs/{digest(WEIGHTS)}"] = (507, json.dumps({"error": "no space left"}))
    done = created("FROM ./model")
    assert done.err.splitlines()[-1] == "vllama: no space left"
    assert "POST /api/create" not in server.calls
