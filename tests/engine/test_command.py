"""vLLM's command line and environment, and the check of a user's flags."""

import json
from pathlib import Path

import pytest

from tests.each import each
from vllama.engine.command import (
    OWNED_FLAGS,
    Address,
    Launch,
    check_flags,
    context_tokens,
    cpu_cache_gib,
    engine_environment,
    read_flags,
    user_arguments,
    user_value,
    vllm_arguments,
)
from vllama.engine.install import Environment, Profile, launcher_path
from vllama.engine.parsers import Parsers
from vllama.errors import ConfigError
from vllama.settings import Settings

MODEL = Path("/models/chat")
SOCKET = Address(socket=Path("/run/vllama/1.sock"))


def flag(*names, nargs=None, type="str", choices=None):  # noqa: A002 - as in the file
    return {"names": list(names), "nargs": nargs, "type": type, "choices": choices}


FLAGS = [
    flag("--model"),
    flag("--served-model-name", nargs="+"),
    flag("--port", type="int"),
    flag("--uds"),
    flag("--api-server-count", "-asc", type="int"),
    flag("--api-key", nargs="+"),
    flag("--dtype", choices=["auto", "bfloat16", "half"]),
    flag("--seed", type="int"),
    flag("--max-model-len"),
    flag("--max-num-seqs", type="int"),
    flag("--max-num-batched-tokens", type="int"),
    flag("--gpu-memory-utilization", type="float"),
    flag("--tensor-parallel-size", "-tp", type="int"),
    flag("--quantization", "-q"),
    flag("--hf-token", nargs="?"),
    flag("--lora-modules", nargs="+"),
    flag("--cudagraph-capture-sizes", nargs="+", type="int"),
    flag("--enforce-eager", "--no-enforce-eager", nargs=0),
    flag("--enable-prefix-caching", "--no-enable-prefix-caching", nargs=0),
    flag("--compilation-config", "-cc"),
    flag("--optimization-level", type="int"),
    flag("--chat-template"),
    flag("--pair", nargs=2),
]


def settings(**fields):
    return Settings.model_construct(**{**Settings().model_dump(), **fields})


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch, tmp_path):
    for name in ("VLLAMA_CONFIG", "OLLAMA_CONTEXT_LENGTH", "VLLAMA_MAX_MODEL_LEN", "VLLAMA_VLLM_ARGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@each(
    "arguments",
    [
        "",
        "--seed 3",
        "--seed=3",
        "--seed -3",
        "--seed=-3",
        "--seed None",
        "--gpu-memory-utilization .5",
        "--gpu-memory-utilization -.5",
        "--max_model_len 8k",
        "--max-model_len=8k",
        "--max-model-len auto",
        "--dtype half",
        "--quant awq",
        "-q awq",
        "-q=awq",
        "-tp 2",
        "--hf-token",
        "--hf-token abc",
        "--lora-modules a=/a b=/b --seed 1",
        "--cudagraph-capture-sizes 1 2 4",
        "--enforce-eager",
        "--no-enforce-eager",
        "--no-enforce_eager",
        "--enforce",
        "--no-enable-pre",
        "-O3",
        "-O 3",
        "-O=3",
        "-Odecode",
        "-cc {}",
        "-cc.mode=3",
        "-cc.mode 3",
        "--compilation-config.pass_config.enable_fusion true",
        "--compilation_config.mode=3",
        "--chat-template -",
        "--pair a b",
    ],
)
def test_flags_that_vllm_takes(arguments):
    check_flags(arguments.split(), FLAGS)


@pytest.mark.parametrize("value", ["-x and more", "{'a': 1}", "", "a=b=c"])
def test_values_of_any_kind(value):
    check_flags(["--chat-template", value], FLAGS)
    check_flags([f"--chat-template={value}"], FLAGS)


@each(
    ("arguments", "error"),
    [
        ("--max-modl-len 5", "vLLM has no flag --max-modl-len: did you mean --max-model-len?"),
        ("--max_modl_len=5", "vLLM has no flag --max-modl-len: did you mean --max-model-len?"),
        ("--zzzzzz", "vLLM has no flag --zzzzzz: see vLLM's documentation"),
        ("-z", "vLLM has no flag -z: "),
        ("--max-num 3", "vLLM has no flag --max-num: did you mean --max-num-seqs?"),
        ("--zz.key=1", "vLLM has no flag --zz.key: "),
        ("seed", "vLLM takes no argument 'seed' here: give flags and their values after --"),
        ("--enforce-eager true", "vLLM takes no argument 'true' here: "),
        ("--seed 1 2", "vLLM takes no argument '2' here: "),
        ("--enforce-eager=true", "vLLM's flag --enforce-eager takes no value: write --enforce-eager alone"),
        ("--seed", "vLLM's flag --seed needs a value: write --seed=VALUE"),
        ("--seed --dtype auto", "vLLM's flag --seed needs a value: "),
        ("--lora-modules", "vLLM's flag --lora-modules needs a value: "),
        ("--seed x", "vLLM's flag --seed cannot be 'x': give a whole number"),
        ("--seed=1.5", "vLLM's flag --seed cannot be '1.5': give a whole number"),
        ("--cudagraph-capture-sizes 1 x", "vLLM's flag --cudagraph-capture-sizes cannot be 'x': "),
        ("--gpu-memory-utilization lots", "vLLM's flag --gpu-memory-utilization cannot be 'lots': give a number"),
        ("--dtype float15", "vLLM's flag --dtype cannot be 'float15': choose from auto, bfloat16, half"),
        ("--dtype=", "vLLM's flag --dtype cannot be '': choose from auto, bfloat16, half"),
        ("--model x", "vLLM's flag --model cannot be used under vllama: use vllama's own --model"),
        ("--port=1", "vLLM's flag --port cannot be used under vllama: use --port (the gateway's) or --vllm-port"),
        ("--served_model_name x", "vLLM's flag --served-model-name cannot be used under vllama: "),
        ("--served x", "vLLM's flag --served-model-name cannot be used under vllama: "),
        ("--api-k x", "vLLM's flag --api-key cannot be used under vllama: "),
        ("-asc 2", "vLLM's flag --api-server-count cannot be used under vllama: "),
        ("--model.x=1", "vLLM's flag --model cannot be used under vllama: "),
        ("--host 0.0.0.0", "vLLM's flag --host cannot be used under vllama: "),
    ],
)
def test_flags_that_are_refused(arguments, error):
    with pytest.raises(ConfigError) as raised:
        check_flags(arguments.split(), FLAGS)
    assert str(raised.value).startswith(error)


@each("name", OWNED_FLAGS)
def test_every_owned_flag_is_refused_though_vllm_knows_it(name):
    with pytest.raises(ConfigError, match=f"^vLLM's flag {name} cannot be used under vllama: use "):
        check_flags([name, "1"], [*FLAGS, flag("--host"), flag("--root-path")])


def test_flags_are_read_from_their_file(tmp_path):
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"version": "0.32.0", "flags": FLAGS}))
    assert read_flags(file) == FLAGS


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "1", '{"flags": 1}', "\udcff"])
def test_a_broken_list_of_flags(tmp_path, content):
    file = tmp_path / "flags.json"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match="vllama engine install --reinstall"):
        read_flags(file)


def arguments(settings, parsers=Parsers(), address=SOCKET):  # noqa: B008
    return vllm_arguments(MODEL, "chat", address, settings, parsers)


def test_arguments():
    assert arguments(settings()) == [
        "--model", "/models/chat", "--served-model-name", "chat", "--uds", "/run/vllama/1.sock",
        "--enable-per-request-metrics", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log",
        "--trust-request-chat-template", "--generation-config", "vllm", "--scheduling-policy", "priority",
        "--max-model-len", "auto",
    ]  # fmt: skip


@pytest.mark.parametrize(("flag", "value"), [("--scheduling-policy", "fcfs"), ("--generation-config", "auto")])
def test_the_users_own_choice(flag, value):
    chosen = arguments(settings(vllm_args=[f"{flag}={value}"]))
    assert [argument for argument in chosen if flag in argument] == [f"{flag}={value}"]


def test_addresses():
    assert SOCKET.url == "unix:/run/vllama/1.sock"
    port = Address(port=8000)
    assert port.url == "http://127.0.0.1:8000"
    assert arguments(settings(), address=port)[4:8] == ["--host", "127.0.0.1", "--port", "8000"]


def test_settings_become_flags_and_raw_arguments_come_last():
    chosen = settings(
        gpu_memory_utilization=0.5, max_model_len="8k", max_num_seqs=4, tensor_parallel_size=2, dtype="half",
        quantization="fp8", enforce_eager=True, vllm_args=["--dtype", "auto"],
    )  # fmt: skip
    assert user_arguments(chosen) == [
        "--gpu-memory-utilization", "0.5", "--max-model-len", "8k", "--max-num-seqs", "4",
        "--tensor-parallel-size", "2", "--dtype", "half", "--quantization", "fp8", "--enforce-eager",
        "--dtype", "auto",
    ]  # fmt: skip
    assert arguments(chosen)[-len(user_arguments(chosen)) :] == user_arguments(chosen)
    assert "auto" not in arguments(chosen)[: -len(user_arguments(chosen))]


@each(
    ("parsers", "chosen", "added"),
    [
        (Parsers(), [], []),
        (Parsers("hermes", "qwen3"), [],
         ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"]),
        (Parsers(None, "qwen3"), [], ["--reasoning-parser", "qwen3"]),
        (Parsers("hermes"), ["--tool-call-parser", "mistral"],
         ["--enable-auto-tool-choice", "--tool-call-parser", "mistral"]),
        (Parsers(), ["--tool_call_parser=mistral"], ["--enable-auto-tool-choice", "--tool_call_parser=mistral"]),
        (Parsers(None, "qwen3"), ["--reasoning-parser=mistral"], ["--reasoning-parser=mistral"]),
    ],
)  # fmt: skip
def test_parsers(parsers, chosen, added):
    assert arguments(settings(vllm_args=chosen), parsers) == [*arguments(settings()), *added]


def environment(profile=Profile.CUDA):
    return Environment(Path("/engine/bin/python"), "0.32.0", profile, Path("/engine/flags.json"))


def test_environment():
    variables = engine_environment(environment(), {"PATH": "/bin", "HF_TOKEN": "t", "CUDA_VISIBLE_DEVICES": "1"})
    assert variables == {
        "PATH": "/bin",
        "HF_TOKEN": "t",
        "CUDA_VISIBLE_DEVICES": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONFAULTHANDLER": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "300",
        "VLLM_MAX_STOP_STRINGS": "1024",
        "PYTHONPATH": str(launcher_path()),
        "PYTHONUNBUFFERED": "1",
    }


@each(
    "name",
    [
        "VLLAMA_ENGINE_API_KEY",
        "VLLAMA_HOST",
        "OLLAMA_API_KEY",
        "OLLAMA_HOST",
        "VLLM_API_KEY",
        "VIRTUAL_ENV",
        "PYTHONHOME",
    ],
)
def test_what_an_engine_is_not_told(name):
    assert name not in engine_environment(environment(), {name: "secret"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("VLLM_MAX_STOP_STRINGS", "4"), ("VLLM_CPU_KVCACHE_SPACE", "40"), ("HF_HUB_OFFLINE", "0"), ("VLLM_USE_V1", "1")],
)
def test_the_users_own_variables_win(name, value):
    assert engine_environment(environment(Profile.CPU), {name: value})[name] == value


def test_the_launcher_is_found_whatever_the_users_path():
    assert engine_environment(environment(), {"PYTHONPATH": "/elsewhere"})["PYTHONPATH"] == str(launcher_path())


def test_a_cpu_engine_is_given_a_cache():
    assert int(engine_environment(environment(Profile.CPU), {})["VLLM_CPU_KVCACHE_SPACE"]) >= 1
    assert "VLLM_CPU_KVCACHE_SPACE" not in engine_environment(environment(), {})


@each(("available", "gib"), [(0, 1), (8, 1), (16, 2), (31, 3), (64, 8), (128, 16), (1024, 16)])
def test_size_of_the_cache(available, gib):
    assert cpu_cache_gib(available * 2**30) == gib


def test_what_one_engine_is_started_with():
    launch = Launch(("--enable-lora",), {"A": "1"}) + Launch(("--seed", "2"), {"B": "2"})
    chosen = settings(vllm_args=["--seed", "3"])
    made = vllm_arguments(MODEL, "chat", SOCKET, chosen, Parsers(), launch)
    assert made[-5:] == ["--enable-lora", "--seed", "2", "--seed", "3"], "the user's own win"
    variables = engine_environment(environment(), {"A": "0"}, launch)
    assert (variables["A"], variables["B"]) == ("0", "2")


@each(
    ("given", "value"),
    [
        ("", None),
        ("--dtype half", "half"),
        ("--dtype=half", "half"),
        ("--dtype half --dtype=auto", "auto"),
        ("--max_loras 3", None),
        ("--d-type x", None),
        ("--seed 1 --dtype", None),
    ],
)
def test_a_value_of_the_users(given, value):
    assert user_value(given.split(), "--dtype") == value
    assert user_value(["--max_model_len", "8k"], "--max-model-len") == "8k"


@each(
    ("text", "tokens"),
    [
        ("8192", 8192),
        ("8k", 8000),
        ("8K", 8192),
        ("1.5k", 1500),
        ("1m", 10**6),
        ("1M", 2**20),
        ("auto", None),
        ("-1", None),
    ],
)
def test_context_tokens(text, tokens):
    assert context_tokens(text) == tokens
