"""Every setting, once: its flag, `VLLAMA_*` variable, `OLLAMA_*` alias and `vllama.toml` key share a field's name.

Order of precedence: command-line flags, `VLLAMA_*` variables, `OLLAMA_*` variables, `vllama.toml`, defaults.
"""

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from vllama.config_file import absolute, config_file
from vllama.engine.install import Profile
from vllama.errors import ConfigError
from vllama.ollama_variables import OllamaSource
from vllama.security.keys import digest
from vllama.security.origins import read_origin
from vllama.translate.duration import parse_seconds

FOREVER = float("inf")

_SECRET = ("engine_api_key", "api_keys")
"""Settings whose values no message shows."""


class Settings(BaseSettings):
    """What the gateway and its engines are started with. Durations are in seconds, `inf` for no limit."""

    model_config = SettingsConfigDict(
        env_prefix="VLLAMA_",
        env_ignore_empty=True,
        extra="forbid",
        validate_default=False,
        nested_model_default_partial_update=False,
    )

    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("vllama", appauthor=False)),
        description="Folder for engine environments, logs and caches.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on. Alias: the host of OLLAMA_HOST.")
    port: int = Field(
        11434, ge=0, le=65535, description="Port to listen on; 0: a free one. Alias: the port of OLLAMA_HOST."
    )
    model: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Models to serve, each a folder, a Hugging Face id, demo, or NAME=SOURCE. "
        "None given: the demo models.",
    )
    origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Origins of web pages that may use the gateway, besides the local ones: https://app.example.com, "
        "or with one * for any text. Alias: OLLAMA_ORIGINS.",
    )
    api_keys: Annotated[list[bytes], NoDecode] = Field(
        default_factory=list,
        repr=False,
        description="API keys: each client must send one of them, as a Bearer token (Ollama's clients take it from "
        "OLLAMA_API_KEY) or as x-api-key. None given: everyone is let in.",
    )
    max_body_mb: int = Field(
        256,
        ge=1,
        description="Largest body of a request in MiB, as it arrives and unpacked. Those of all requests hold at most "
        "four times as much together.",
    )
    preload: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Models to load at once, in this order, instead of at the first request."
    )
    pin: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Models to load at once and to keep: never unloaded, neither when idle nor to make room.",
    )
    keep_warm: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Models to load at once and again whenever there is room for them; unlike pinned ones they make "
        "room for others that are asked for.",
    )
    lora: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="LoRA adapters to serve as models, each NAME=PATH, or NAME=PATH@BASE where the adapter's own files "
        "do not name its base model.",
    )
    checkpoints: Annotated[list[Path], NoDecode] = Field(
        default_factory=list,
        description="Folders of training runs: what lies in them is served as peft:BASE:JOB[:CHECKPOINT] and "
        "rl:BASE:JOB[:CHECKPOINT].",
    )
    engine_url: str | None = Field(
        None,
        description="Use an OpenAI-compatible server that already runs: http://host:port, https://… or unix:/path.",
    )
    engine_api_key: str | None = Field(
        None,
        repr=False,
        description="Bearer token for the server at engine_url.",
    )
    engine_profile: Profile | None = Field(None, description="cpu or cuda. Default: cuda where an NVIDIA GPU is found.")
    engine_python: Path | None = Field(
        None, description="Interpreter of an existing environment with vLLM, instead of installing one."
    )
    find_links: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="Wheel folders for installing the engine, besides those that pip and uv are configured with.",
    )
    vllm_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Let vLLM listen on this TCP port of 127.0.0.1 instead of a private Unix socket.",
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Fraction of the GPU's memory for the engine."
    )
    max_model_len: str | None = Field(
        None,
        description="Context length in tokens, like 8192, 8k or auto. Alias: OLLAMA_CONTEXT_LENGTH.",
    )
    memory_limit: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="GiB of GPU memory (on a CPU: of RAM) that all engines may take together. Default: what is free.",
    )
    max_loras: int | None = Field(
        None, ge=1, description="LoRA adapters that one batch can mix. Default: 4 where a model has adapters."
    )
    max_cpu_loras: int | None = Field(
        None, ge=1, description="LoRA adapters kept in RAM, at least max_loras. Default: four times max_loras."
    )
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = Field(
        None, description="Highest rank of a LoRA adapter. Default: that of the known adapters, at least 16."
    )
    max_num_seqs: int | None = Field(None, ge=1, description="Most sequences the engine runs at once.")
    tensor_parallel_size: int | None = Field(None, ge=1, description="GPUs to split a model over.")
    dtype: str | None = Field(None, description="Weights' and activations' type, like auto or bfloat16.")
    quantization: str | None = Field(None, description="Quantization method; by default read from the checkpoint.")
    startup: Literal["fast", "balanced", "throughput"] = Field(
        "balanced",
        description="What a start may cost: fast compiles nothing, balanced what pays off soon, throughput all that "
        "makes answers quicker.",
    )
    standby: bool = Field(
        True, description="Keep a process that has imported vLLM, so that engines start sooner. It takes some 0.6 GB."
    )
    enforce_eager: bool = Field(
        False, description="Neither compile nor capture CUDA graphs: quicker start, slower answers."
    )
    tool_call_parser: str | None = Field(
        None, description="vLLM's tool-call parser, or none. Default: chosen from the model."
    )
    reasoning_parser: str | None = Field(
        None, description="vLLM's reasoning parser, or none. Default: chosen from the model."
    )
    vllm_args: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="More arguments for vLLM, as they are. On the command line: everything after --.",
    )
    keep_alive: float = Field(
        300.0, description="How long an idle model stays loaded, like 5m; negative: forever. Alias: OLLAMA_KEEP_ALIVE."
    )
    load_timeout: float = Field(
        300.0,
        description="A loading engine that makes no progress for this long is stopped, and its requests fail. "
        "Alias: OLLAMA_LOAD_TIMEOUT.",
    )
    drain_timeout: float = Field(
        5.0, description="How long running requests may go on once the gateway was told to stop."
    )
    max_loaded_models: int = Field(
        0,
        ge=0,
        description="Most models in memory at once; 0: three for each GPU, three on a CPU. "
        "Alias: OLLAMA_MAX_LOADED_MODELS.",
    )
    max_queue: int = Field(
        512, ge=1, description="Most requests that wait for a model to load. Alias: OLLAMA_MAX_QUEUE."
    )
    max_requests: int | None = Field(
        None,
        ge=1,
        description="Most requests in flight in all; more are refused at once, with 503. Default: 4096, or fewer where "
        "the process may open few files.",
    )
    max_requests_per_engine: int = Field(
        2048, ge=1, description="Most requests in flight on one engine, with those that wait for it."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug also logs each request. Alias: OLLAMA_DEBUG=1 means debug."
    )

    @field_validator(
        *("model", "preload", "pin", "keep_warm", "lora", "checkpoints", "find_links", "vllm_args", "origins"),
        mode="before",
    )
    @classmethod
    def _split_list(cls, value: Any, info: Any) -> Any:
        """In a variable, arguments are separated as in a shell and other lists by commas."""
        if not isinstance(value, str):
            return value
        if info.field_name == "vllm_args":
            import shlex

            return shlex.split(value)
        return _separated(value)

    @field_validator("origins", mode="after")
    @classmethod
    def _read_origins(cls, value: list[str]) -> list[str]:
        return [read_origin(entry) for entry in value]

    @field_validator("api_keys", mode="before")
    @classmethod
    def _forget_keys(cls, value: Any) -> list[bytes]:
        """The keys' digests: nothing that shows the settings can show a key."""
        keys = _separated(value) or [""] if isinstance(value, str) else value
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("give a list of texts")
        return [digest(key) for key in keys]

    @field_validator("keep_alive", "load_timeout", "drain_timeout", mode="before")
    @classmethod
    def _read_duration(cls, value: Any, info: Any) -> Any:
        if isinstance(value, str):
            value = parse_seconds(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ValueError("a duration is a number of seconds, or a text like 5m")
        never = value <= 0 if info.field_name == "load_timeout" else value < 0
        return FOREVER if never else value

    @field_validator("lora", mode="after")
    @classmethod
    def _check_adapters(cls, value: list[str]) -> list[str]:
        for entry in value:
            name, _, path = entry.partition("=")
            if not name or not path or path.startswith("@"):
                raise ValueError(f"{entry!r} names no adapter: write NAME=PATH or NAME=PATH@BASE")
        return value

    @field_validator("max_lora_rank", mode="before")
    @classmethod
    def _read_rank(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("max_cpu_loras", mode="after")
    @classmethod
    def _check_kept_adapters(cls, value: int | None, info: Any) -> int | None:
        if value is not None and value < (info.data.get("max_loras") or 1):
            raise ValueError(f"give at least max_loras, {info.data['max_loras']}")
        return value

    @field_validator("max_model_len", mode="before")
    @classmethod
    def _read_length(cls, value: Any) -> Any:
        text = str(value)
        if value is not None and not re.fullmatch(r"auto|-1|[1-9]\d*|\d+(\.\d+)?[kKmM]", text):
            raise ValueError("give a number of tokens like 8192, 8k or 8K, or auto")
        return text

    @field_validator("engine_url", mode="after")
    @classmethod
    def _check_engine_url(cls, value: str | None) -> str | None:
        if value is None or re.fullmatch(r"unix:/.+", value):
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give http://host:port, https://host or unix:/path")
        if parts.username or parts.password:
            raise ValueError("credentials do not belong into the address: set VLLAMA_ENGINE_API_KEY")
        return value

    @field_validator("home", "engine_python", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and absolute(value)

    @field_validator("checkpoints", mode="after")
    @classmethod
    def _absolute_all(cls, value: list[Path]) -> list[Path]:
        return [absolute(path) for path in value]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = config_file()
        toml = (TomlConfigSettingsSource(settings_cls, file),) if file else ()
        return (init_settings, env_settings, OllamaSource(settings_cls), *toml)


def unknown_variables(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """`VLLAMA_*` variables that nothing reads, each with the setting that may have been meant."""
    known = {f"VLLAMA_{name.upper()}" for name in Settings.model_fields} | {"VLLAMA_CONFIG"}
    unknown = sorted(name for name in environ if name.startswith("VLLAMA_") and name not in known)
    return [(name, next(iter(get_close_matches(name, known, n=1)), None)) for name in unknown]


def load(**flags: Any) -> Settings:
    """Settings from all sources. `flags`: what the command line gave; None means not given.

    Raises ConfigError naming the setting, where it came from being the user's to know.
    """
    file = config_file()
    if file is not None and not file.is_file():
        raise ConfigError(f"the configuration file {file} does not exist", "correct VLLAMA_CONFIG")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(*_explain(error, file)) from None
    except ValueError as error:  # tomllib's
        raise ConfigError(f"{file} is not valid TOML", str(error)) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read", error.strerror or str(error)) from None


def _explain(error: ValidationError, file: Path | None) -> tuple[str, str]:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(name, Settings.model_fields, n=1)
        return f"unknown setting {name!r} in {file}", f"did you mean {near[0]!r}?" if near else "remove it"
    shown = "" if problem["loc"][0] in _SECRET else f" {problem['input']!r}"
    return f"bad value{shown} for {name}", problem["msg"].removeprefix("Value error, ")


def _separated(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
