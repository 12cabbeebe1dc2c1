"""`vllama show`."""

import json

import pytest

SHOWN = {
    "details": {
        "family": "llama",
        "parameter_size": "8.0B",
        "quantization_level": "fp8",
        "parent_model": "base:latest",
    },
    "model_info": {
        "general.architecture": "llama",
        "llama.context_length": 8192,
        "llama.embedding_length": 4096,
        "llama.layers": [1, 2, 3, 4, 5],
    },
    "projector_info": {"clip.layers": 3},
    "capabilities": ["completion", "vision"],
    "parameters": 'stop                           "<|im_end|> x"\ntemperature                    0.7',
    "system": "You are a pirate.\n\n  Speak like one.\nAlways.",
    "license": "MIT\nCopyright",
    "modelfile": "FROM llama",
    "template": "{{ messages }}",
    "requires": "0.14.0",
    "tensors": [{"name": "a.weight", "type": "BF16", "shape": [2, 3]}],
}
SECTIONS = """  Model
    architecture        llama
    parent              base:latest
    parameters          8.0B
    context length      8192
    embedding length    4096
    quantization        fp8
    requires            0.14.0

  Capabilities
    completion
    vision

  Projector
    clip.layers    3

  Parameters
    stop           "<|im_end|> x"
    temperature    0.7

"""
VERBOSE = """  Metadata
    general.architecture      llama
    llama.context_length      8192
    llama.embedding_length    4096
    llama.layers              [1, 2, 3, ...+2 more]

  Tensors
    a.weight    BF16    [2, 3]

"""
END = """  System
    You are a pirate.
    Speak like one.
    ...

  License
    MIT
    Copyright

"""


def test_sections(run, server):
    server.answers["POST /api/show"] = (200, SHOWN)
    assert run("show", "m", url=server.url).out == SECTIONS + END
    assert run("show", "m", "-v", url=server.url).out == SECTIONS + VERBOSE + END
    assert [body for _, body in server.asked] == [
        {"model": "m", "verbose": False},
        {"model": "m", "verbose": True},
    ]


@pytest.mark.parametrize("part", ["license", "modelfile", "parameters", "system", "template"])
def test_one_part(run, server, part):
    server.answers["POST /api/show"] = (200, SHOWN)
    assert run("show", "m", f"--{part}", url=server.url).out == f"{SHOWN[part]}\n"
    assert json.loads(run("show", "m", f"--{part}", "--format", "json", url=server.url).out) == {part: SHOWN[part]}


def test_a_part_that_is_not_there(run, server):
    server.answers["POST /api/show"] = (200, {})
    assert run("show", "m", "--system", url=server.url).out == "\n"


def test_two_parts(run, server):
    done = run("show", "m", "--system", "--license", url=server.url)
    assert (done.code, server.asked) == (1, [])
    assert done.err == "vllama: more than one part is asked for: give only one of --license, --system\n"


def test_a_model_of_which_little_is_known(run, server):
    server.answers["POST /api/show"] = (200, {"details": {"family": "x"}, "model_info": {}, "capabilities": None})
    assert run("show", "m", url=server.url).out == "  Model\n    architecture    x\n\n"


async def test_the_demo_model(run_api, api):
    done = await run_api("show", "demo")
    assert "    context length      4096\n" in done.out
    shown = (await api.post("/api/show", json={"model": "demo"})).json()
    assert json.loads((await run_api("show", "demo", "--format", "json")).out) == shown
    missing = await run_api("show", "nope")
    assert (missing.code, missing.err) == (1, "vllama: model 'nope:latest' not found\n")
