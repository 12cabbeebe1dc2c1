"""`vllama cp`, `vllama rm` and `vllama stop`."""

import pytest


def test_cp(run, server):
    server.answers["POST /api/copy"] = (200, "")
    done = run("cp", "a", "b", url=server.url)
    assert (done.code, done.out) == (0, "copied 'a' to 'b'\n")
    assert server.asked == [("POST /api/copy", {"source": "a", "destination": "b"})]


def test_rm_unloads_first(run, server):
    server.answers |= {"POST /api/generate": (200, {"done": True}), "DELETE /api/delete": (200, "")}
    done = run("rm", "a", "b", url=server.url)
    assert (done.code, done.out) == (0, "deleted 'a'\ndeleted 'b'\n")
    assert server.asked == [
        (call, body)
        for name in "ab"
        for call, body in (
            ("POST /api/generate", {"model": name, "keep_alive": 0}),
            ("DELETE /api/delete", {"model": name}),
        )
    ]


def test_rm_of_what_cannot_be_loaded(run, server):
    server.answers |= {"POST /api/generate": (500, {"error": "broken"}), "DELETE /api/delete": (200, "")}
    assert run("rm", "a", url=server.url).out == "deleted 'a'\n"


def test_rm_ends_at_what_is_not_there(run, server):
    server.answers["DELETE /api/delete"] = (404, {"error": "model 'a' not found"})
    done = run("rm", "a", "b", url=server.url)
    assert (done.code, done.out, done.err) == (1, "", "vllama: model 'a' not found\n")


async def test_stop(run_api, api):
    await api.post("/api/generate", json={"model": "demo-embed"})
    done = await run_api("stop", "demo-embed")
    assert (done.code, done.out, done.err) == (0, "", "")
    names = [model["name"] for model in (await api.get("/api/ps")).json()["models"]]
    assert "demo-embed:latest" not in names


@pytest.mark.parametrize(
    ("until", "said"),
    [
        ("2318-01-01T00:00:00Z", "Demo stays loaded: the server was started with --pin or --keep-warm for it\n"),
        ("2020-01-01T00:00:00Z", ""),
    ],
)
def test_stop_of_what_the_server_keeps(run, server, until, said):
    server.answers |= {
        "POST /api/generate": (200, {"done": True}),
        "GET /api/ps": (200, {"models": [{"name": "demo:latest", "expires_at": until}]}),
    }
    done = run("stop", "Demo", url=server.url)
    assert (done.code, done.out, done.err) == (0, "", said)


async def test_stop_of_what_is_not_there(run_api):
    done = await run_api("stop", "nope")
    assert (done.code, done.err) == (1, 'vllama: couldn\'t find model "nope" to stop\n')


def test_stop_of_what_does_not_stop(run, server):
    server.answers["POST /api/generate"] = (500, {"error": "broken"})
    assert run("stop", "a", url=server.url).err == "vllama: broken\n"
