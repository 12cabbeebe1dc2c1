"""Every setting, once: its flag, `VLLAMA_*` variable, `OLLAMA_*` alias and `vllama.toml` key share a field's name.

Order of precedence: command-line flags, `VLLAMA_*` variables, `OLLAMA_*` variables, `vllama.toml`, defaults.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import platformdirs
from msgspec import Meta, Struct, field
from msgspec.structs import fields

from vllama.config_file import config_file
from vllama.engine.profile import Profile
from vllama.errors import ConfigError
from vllama.ollama_variables import ALIASES, ollama_values
from vllama.setting_values import (
    FOREVER,
    Adapters,
    Amount,
    Arguments,
    Count,
    Folders,
    Keys,
    Length,
    Origins,
    Patience,
    Port,
    Seconds,
    Share,
    Switch,
    Texts,
    Url,
    read,
)

__all__ = ["FOREVER", "Settings", "load", "unknown_variables"]

_SECRET = ("engine_api_key", "api_keys")
"""Settings whose values nothing shows."""

_FLAGS = {"engine_profile": "--profile", "vllm_args": "after --"}
"""Of settings whose flags are not called as they are."""


class Settings(Struct, kw_only=True, frozen=True):
    """What the gateway and its engines are started with. Durations are in seconds, `inf` for no limit."""

    home: Annotated[Path, "Folder for engine environments, logs and caches."] = field(
        default_factory=lambda: Path(platformdirs.user_data_dir("vllama", appauthor=False))
    )
    host: Annotated[str, "Address to listen on. Alias: the host of OLLAMA_HOST."] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65535),
        "Port to listen on; 0: a free one. Alias: the port of OLLAMA_HOST.",
    ] = 11434
    model: Annotated[
        Texts,
        "Models to serve, each a folder, a Hugging Face id, demo, or NAME=SOURCE. None given: the demo models.",
    ] = []
    origins: Annotated[
        Origins,
        "Origins of web pages that may use the gateway, besides the local ones: https://app.example.com, or with one "
        "* for any text. Alias: OLLAMA_ORIGINS.",
    ] = []
    api_keys: Annotated[
        Keys,
        "API keys: each client must send one of them, as a Bearer token (Ollama's clients take it from "
        "OLLAMA_API_KEY) or as x-api-key. None given: everyone is let in.",
    ] = []
    max_body_mb: Annotated[
        Count,
        "Largest body of a request in MiB, as it arrives and unpacked. Those of all requests hold at most four times "
        "as much together.",
    ] = 256
    preload: Annotated[Texts, "Models to load at once, in this order, instead of at the first request."] = []
    pin: Annotated[
        Texts,
        "Models to load at once and to keep: never unloaded, neither when idle nor to make room.",
    ] = []
    keep_warm: Annotated[
        Texts,
        "Models to load at once and again whenever there is room for them; unlike pinned ones they make room for "
        "others that are asked for.",
    ] = []
    lora: Annotated[
        Adapters,
        "LoRA adapters to serve as models, each NAME=PATH, or NAME=PATH@BASE where the adapter's own files do not "
        "name its base model.",
    ] = []
    checkpoints: Annotated[
        Folders,
        "Folders of training runs: what lies in them is served as peft:BASE:JOB[:CHECKPOINT] and "
        "rl:BASE:JOB[:CHECKPOINT].",
    ] = []
    engine_url: Annotated[
        Url | None,
        "Use an OpenAI-compatible server that already runs: http://host:port, https://… or unix:/path.",
    ] = None
    engine_api_key: Annotated[str | None, "Bearer token for the server at engine_url."] = None
    engine_profile: Annotated[Profile | None, "cpu or cuda. Default: cuda where an NVIDIA GPU is found."] = None
    engine_python: Annotated[
        Path | None,
        "Interpreter of an existing environment with vLLM, instead of installing one.",
    ] = None
    find_links: Annotated[
        Texts,
        "Wheel folders for installing the engine, besides those that pip and uv are configured with.",
    ] = []
    vllm_port: Annotated[
        Port | None,
        "Let vLLM listen on this TCP port of 127.0.0.1 instead of a private Unix socket.",
    ] = None
    gpu_memory_utilization: Annotated[Share | None, "Fraction of the GPU's memory for the engine."] = None
    max_model_len: Annotated[
        Length | None,
        "Context length in tokens, like 8192, 8k or auto. Alias: OLLAMA_CONTEXT_LENGTH.",
    ] = None
    memory_limit: Annotated[
        Amount | None,
        "GiB of GPU memory (on a CPU: of RAM) that all engines may take together. Default: what is free.",
    ] = None
    max_loras: Annotated[
        Count | None,
        "LoRA adapters that one batch can mix. Default: 4 where a model has adapters.",
    ] = None
    max_cpu_loras: Annotated[
        Count | None,
        "LoRA adapters kept in RAM, at least max_loras. Default: four times max_loras.",
    ] = None
    max_lora_rank: Annotated[
        Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None,
        "Highest rank of a LoRA adapter. Default: that of the known adapters, at least 16.",
    ] = None
    max_num_seqs: Annotated[Count | None, "Most sequences the engine runs at once."] = None
    tensor_parallel_size: Annotated[Count | None, "GPUs to split a model over."] = None
    dtype: Annotated[str | None, "Weights' and activations' type, like auto or bfloat16."] = None
    quantization: Annotated[str | None, "Quantization method; by default read from the checkpoint."] = None
    startup: Annotated[
        Literal["fast", "balanced", "throughput"],
        "What a start may cost: fast compiles nothing, balanced what pays off soon, throughput all that makes "
        "answers quicker.",
    ] = "balanced"
    standby: Annotated[
        Switch,
        "Keep a process that has imported vLLM, so that engines start sooner. It takes some 0.6 GB.",
    ] = True
    enforce_eager: Annotated[Switch, "Neither compile nor capture CUDA graphs: quicker start, slower answers."] = False
    tool_call_parser: Annotated[str | None, "vLLM's tool-call parser, or none. Default: chosen from the model."] = None
    reasoning_parser: Annotated[str | None, "vLLM's reasoning parser, or none. Default: chosen from the model."] = None
    vllm_args: Annotated[
        Arguments,
        "More arguments for vLLM, as they are. On the command line: everything after --.",
    ] = []
    keep_alive: Annotated[
        Seconds,
        "How long an idle model stays loaded, like 5m; negative: forever. Alias: OLLAMA_KEEP_ALIVE.",
    ] = 300.0
    load_timeout: Annotated[
        Patience,
        "A loading engine that makes no progress for this long is stopped, and its requests fail. Alias: "
        "OLLAMA_LOAD_TIMEOUT.",
    ] = 300.0
    drain_timeout: Annotated[Seconds, "How long running requests may go on once the gateway was told to stop."] = 5.0
    max_loaded_models: Annotated[
        int,
        Meta(ge=0),
        "Most models in memory at once; 0: three for each GPU, three on a CPU. Alias: OLLAMA_MAX_LOADED_MODELS.",
    ] = 0
    max_queue: Annotated[Count, "Most requests that wait for a model to load. Alias: OLLAMA_MAX_QUEUE."] = 512
    max_requests: Annotated[
        Count | None,
        "Most requests in flight in all; more are refused at once, with 503. Default: 4096, or fewer where the process "
        "may open few files.",
    ] = None
    max_requests_per_engine: Annotated[Count, "Most requests in flight on one engine, with those that wait for it."] = (
        2048
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        "debug also logs each request. Alias: OLLAMA_DEBUG=1 means debug.",
    ] = "info"

    def __repr__(self) -> str:
        shown = [f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in _SECRET]
        return f"Settings({', '.join(shown)})"


_TYPES: dict[str, Any] = {setting.name: setting.type for setting in fields(Settings)}


def unknown_variables(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """`VLLAMA_*` variables that nothing reads, each with the setting that may have been meant."""
    known = {_variable(name) for name in _TYPES} | {"VLLAMA_CONFIG"}
    unknown = sorted(name for name in environ if name.startswith("VLLAMA_") and name not in known)
    return [(name, next(iter(get_close_matches(name, known, n=1)), None)) for name in unknown]


def load(**flags: Any) -> Settings:
    """Settings from all sources. `flags`: what the command line gave; None means not given.

    Raises ConfigError naming the setting, and where its value came from.
    """
    file = config_file()
    given = {
        **_given(_of_file(file) if file else {}, lambda _: str(file)),
        **_given(ollama_values(os.environ), lambda name: ALIASES[name]),
        **_given(_of_variables(os.environ), _variable),
        **_given({name: value for name, value in flags.items() if value is not None}, _flag),
    }
    settings = Settings(**{name: _read(name, value) for name, value in given.items()})
    if settings.max_cpu_loras is not None and settings.max_cpu_loras < (settings.max_loras or 1):
        raise _bad("max_cpu_loras", given["max_cpu_loras"], f"give at least max_loras, {settings.max_loras or 1}")
    return settings


class _Given(NamedTuple):
    """where: the flag, the variable or the file that it came from."""

    value: Any
    where: str


def _given(values: Mapping[str, Any], where: Callable[[str], str]) -> dict[str, _Given]:
    return {name: _Given(value, where(name)) for name, value in values.items()}


def _of_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"the configuration file {file} does not exist", "correct VLLAMA_CONFIG")
    try:
        written = tomllib.loads(file.read_bytes().decode())
    except ValueError as error:
        raise ConfigError(f"{file} is not valid TOML", str(error)) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read", error.strerror or str(error)) from None
    for name in written.keys() - _TYPES.keys():
        near = get_close_matches(name, _TYPES, n=1)
        raise ConfigError(f"unknown setting {name!r} in {file}", f"did you mean {near[0]!r}?" if near else "remove it")
    return written


def _of_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name in _TYPES if (text := environ.get(_variable(name)))}


def _variable(name: str) -> str:
    return f"VLLAMA_{name.upper()}"


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _read(name: str, given: _Given) -> Any:
    try:
        return read(_TYPES[name], given.value)
    except ValueError as error:
        raise _bad(name, given, str(error)) from None


def _bad(name: str, given: _Given, advice: str) -> ConfigError:
    value = "" if name in _SECRET else f" {given.value!r}"
    return ConfigError(f"bad value{value} for {name} ({given.where})", advice)
