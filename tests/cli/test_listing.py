"""`vllama list` and `vllama ps`."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

DIGEST = "0123456789abcdef" * 4


async def test_list(run_api):
    done = await run_api("list")
    head, *rows = done.out.splitlines()
    assert re.split(r"\s{4,}", head) == ["NAME", "ID", "SIZE", "MODIFIED"]
    names = [re.split(r"\s{4,}", row)[0] for row in rows]
    assert sorted(names) == ["demo-embed:latest", "demo:latest", "plain:latest"]
    assert all(re.fullmatch(r"\S+ +[0-9a-f]{12} +[\d.]+ [KM]B +.+ ago", row) for row in rows)
    assert done.err == ""


async def test_list_with_a_prefix(run_api):
    assert [row.split()[0] for row in (await run_api("ls", "DEMO-")).out.splitlines()[1:]] == ["demo-embed:latest"]


async def test_list_for_scripts(run_api, api):
    assert json.loads((await run_api("list", "--format", "json")).out) == (await api.get("/api/tags")).json()
    some = json.loads((await run_api("list", "plain", "--format", "json")).out)
    assert [model["name"] for model in some["models"]] == ["plain:latest"]


async def test_ps(run_api, api):
    await api.post("/api/generate", json={"model": "demo", "keep_alive": "10m"})
    (row,) = (await run_api("ps", "demo:")).out.splitlines()[1:]
    assert re.fullmatch(r"demo:latest    [0-9a-f]{12}    1\.1 GB    100% GPU +4096 +9 minutes from now", row)
    assert json.loads((await run_api("ps", "demo:", "--format", "json")).out)["models"][0]["name"] == "demo:latest"


def process(**more):
    expires = datetime.now(UTC) + timedelta(hours=2)
    return {"name": "m:latest", "digest": DIGEST, "size": 4_000_000_000, "expires_at": expires.isoformat()} | more


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({"size_vram": 4_000_000_000, "context_length": 8192}, "4 GB    100% GPU     8192       2 hours from now"),
        ({"size_vram": 1_000_000_000}, "4 GB    75%/25% CPU/GPU    0          2 hours from now"),
        ({"size_vram": 5_000_000_000}, "4 GB    Unknown      0          2 hours from now"),
        ({"expires_at": "2318-01-01T00:00:00Z"}, "4 GB    100% CPU     0          Forever"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "4 GB    100% CPU     0          Stopping..."),
    ],
)
def test_ps_columns(run, server, more, end):
    server.answers["GET /api/ps"] = (200, {"models": [process(**more)]})
    (row,) = run("ps", url=server.url).out.splitlines()[1:]
    assert row == f"m:latest    {DIGEST[:12]}    {end}"


def test_a_remote_model_has_no_size(run, server):
    model = {
        "name": "m:cloud",
        "digest": DIGEST,
        "size": 300,
        "remote_host": "x",
        "modified_at": "2001-01-01T00:00:00Z",
    }
    server.answers["GET /api/tags"] = (200, {"models": [model]})
    assert f"m:cloud    {DIGEST[:12]}    -" in run("list", url=server.url).out
