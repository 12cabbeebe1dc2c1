"""vLLM's command line and environment for one model, and the check of flags against vLLM's own parser."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from vllama.engine.install import Environment, launcher_path
from vllama.engine.parsers import Parsers
from vllama.engine.profile import Profile
from vllama.errors import ConfigError
from vllama.settings import Settings

OWNED_FLAGS = {
    "--model": "vllama's own --model, before the --",
    "--served-model-name": "vllama's --model NAME=SOURCE",
    "--host": "--host (the gateway's) or --vllm-port",
    "--port": "--port (the gateway's) or --vllm-port",
    "--uds": "--vllm-port",
    "--api-key": "a firewall: the engine listens to its own user only",
    "--root-path": "a path in OLLAMA_HOST",
    "--api-server-count": "--max-num-seqs",
    "--grpc": "HTTP: the gateway speaks nothing else to its engine",
    "--headless": "--engine-url to stand before a server of several machines",
    "--help": "vLLM's documentation",
    "--ssl-keyfile": "a proxy with TLS before the gateway",
    "--ssl-certfile": "a proxy with TLS before the gateway",
}
"""Flags of vLLM that would take the engine away from the gateway, and what to use instead."""

_PREFERRED = {
    # Ollama's defaults hold: a checkpoint's own would come in wherever a request leaves a neutral value unsaid.
    "--generation-config": "vllm",
    # Without priorities in the requests this is first come, first served; vLLM's default ignores them.
    "--scheduling-policy": "priority",
}
_NEGATIVE = re.compile(r"-[0-9]+|-[0-9]*\.[0-9]+")

KEEP_ALIVE_S = 300
"""How long the engine keeps idle connections: longer than our client does, so that none closes under a request."""


@dataclass(frozen=True)
class Address:
    """Where one engine listens: a Unix socket, or a TCP port of 127.0.0.1."""

    socket: Path | None = None
    port: int | None = None

    @property
    def url(self) -> str:
        return f"unix:{self.socket}" if self.socket else f"http://127.0.0.1:{self.port}"

    @property
    def flags(self) -> list[str]:
        return ["--uds", str(self.socket)] if self.socket else ["--host", "127.0.0.1", "--port", str(self.port)]


@dataclass(frozen=True)
class Launch:
    """What one engine is started with besides what all are: arguments and variables."""

    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: "Launch") -> "Launch":
        return Launch(self.arguments + other.arguments, {**self.variables, **other.variables})


def vllm_arguments(
    model: Path,
    name: str,
    address: Address,
    settings: Settings,
    parsers: Parsers,
    launch: Launch = Launch(),
) -> list[str]:
    """vLLM's arguments; the user's own come last, so that they win."""
    user = user_arguments(settings)
    arguments = ["--model", str(model), "--served-model-name", name, *address.flags]
    # Per-request metrics give true prefill and decode times; the access log would repeat the gateway's.
    arguments += ["--enable-per-request-metrics", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    # A model's own template goes with its requests; the gateway sees to it that a client's does not.
    arguments.append("--trust-request-chat-template")
    for flag, value in _PREFERRED.items():
        if not names_any(user, (flag,)):
            arguments += [flag, value]
    if settings.max_model_len is None:
        arguments += ["--max-model-len", "auto"]
    names_tool_parser = names_any(user, ("--tool-call-parser",))
    if parsers.tool_call or names_tool_parser:
        arguments.append("--enable-auto-tool-choice")
    if parsers.tool_call and not names_tool_parser:
        arguments += ["--tool-call-parser", parsers.tool_call]
    if parsers.reasoning and not names_any(user, ("--reasoning-parser",)):
        arguments += ["--reasoning-parser", parsers.reasoning]
    return [*arguments, *launch.arguments, *user]


def user_arguments(settings: Settings) -> list[str]:
    """What the user chose of vLLM's flags, by our settings of the same name and after `--`."""
    arguments: list[str] = []
    for setting in (
        "gpu_memory_utilization",
        "max_model_len",
        "max_num_seqs",
        "tensor_parallel_size",
        "dtype",
        "quantization",
    ):
        if (value := getattr(settings, setting)) is not None:
            arguments += ["--" + setting.replace("_", "-"), str(value)]
    if settings.enforce_eager:
        arguments.append("--enforce-eager")
    return arguments + settings.vllm_args


def context_tokens(text: str) -> int | None:
    """The number in a `--max-model-len` such as 8192, 8k (8,000) or 8K (8,192); None for `auto` and -1."""
    if text in ("auto", "-1"):
        return None
    factor = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}.get(text[-1], 1)
    return int(float(text.rstrip("kKmM")) * factor)


def names_any(arguments: Iterable[str], flags: tuple[str, ...]) -> bool:
    """Whether one of the flags is among the arguments, be it as `--no-…`, with `_` for `-` or with `=`."""
    names = {_name(argument).replace("--no-", "--", 1) for argument in arguments}
    return any(name in flags or (name[:2] == "-O" and "-O" in flags) for name in names)


def user_value(arguments: Sequence[str], flag: str) -> str | None:
    """What a flag is set to, the last time it is given; None where it is not."""
    found = None
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("-") and _canonical(name) == flag:
            found = value if equals else next(iter(arguments[position + 1 : position + 2]), None)
    return found


def _name(argument: str) -> str:
    """The flag in an argument: without its value, and without the key in `--flag.key` of a flag whose value is JSON."""
    return _canonical(re.split("[=.]", argument, maxsplit=1)[0])


def engine_environment(
    environment: Environment,
    base: Mapping[str, str],
    launch: Launch = Launch(),
) -> dict[str, str]:
    """The variables of an engine's process: the user's own, less the gateway's, plus what vLLM needs.

    What the user set for vLLM wins over what is chosen here and in `launch`.
    """
    # VLLM_API_KEY would make the engine ask its only client, the gateway, for a key.
    ours = {"VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "VLLM_API_KEY"}
    variables = {
        name: value for name, value in base.items() if name not in ours and not name.startswith(("VLLAMA_", "OLLAMA_"))
    }
    defaults = {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # weights are at hand when an engine starts; without it every start asks the hub
        "PYTHONFAULTHANDLER": "1",  # so that a process that crashes says by what: vLLM does not
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
        "VLLM_MAX_STOP_STRINGS": "1024",  # vLLM's default is 4; Ollama knows no limit
    }
    if environment.profile is Profile.CPU:
        defaults["VLLM_CPU_KVCACHE_SPACE"] = str(cpu_cache_gib(psutil.virtual_memory().available))
    return defaults | dict(launch.variables) | variables | {"PYTHONPATH": str(launcher_path()), "PYTHONUNBUFFERED": "1"}


def cpu_cache_gib(available_bytes: int) -> int:
    """Whole GiB of host memory for the KV cache: an eighth of what is available, at least 1 and at most 16."""
    return min(max(available_bytes // 2**30 // 8, 1), 16)


def read_flags(path: Path) -> list[dict[str, Any]]:
    """vLLM's flags as the launcher described them. Raises ConfigError where the file cannot be read."""
    try:
        return list(json.loads(path.read_text())["flags"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"the list of vLLM's flags in {path} cannot be read ({error})", "run `vllama engine install --reinstall`"
        ) from None


def check_flags(arguments: Sequence[str], flags: Sequence[Mapping[str, Any]]) -> None:
    """Check a user's arguments for vLLM. flags: as `read_flags` gives them.

    Raises ConfigError for a flag vLLM does not know (with its nearest match), one that the gateway sets itself, a
    missing value and a value of the wrong kind. Values that are JSON are left to vLLM.
    """
    known = {name: flag for flag in flags for name in flag["names"]}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if not argument.startswith("-"):
            raise ConfigError(f"vLLM takes no argument {argument!r} here", "give flags and their values after --")
        name, equals, value = argument.partition("=")
        flag = _lookup(_canonical(name), known)
        following = [] if equals else _values(arguments[position + 1 :])
        values = [value] if equals else following[: _consumed(flag, following)]
        position += 1 if equals else 1 + len(values)
        if flag is not None:
            _check_values(name, flag, values)


def _canonical(name: str) -> str:
    """vLLM takes `_` for `-` in names, though not in the keys of `--flag.key`."""
    flag, dot, key = name.partition(".")
    return flag.replace("_", "-") + dot + key if name.startswith("--") else name


def _lookup(name: str, known: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The flag's description, None for forms only vLLM can judge. Raises ConfigError for unknown and owned ones."""
    if name.startswith("-O"):  # -O3 and the like: flag and level in one
        return None
    plain, dot, _ = name.partition(".")  # --x.y is a key of the JSON value of --x
    # argparse takes a unique beginning of a name.
    beginnings = {id(known[full]): known[full] for full in known if plain.startswith("--") and full.startswith(plain)}
    flag = known.get(plain) or (next(iter(beginnings.values())) if len(beginnings) == 1 and not dot else None)
    if owned := next((full for full in (flag["names"] if flag else [plain]) if full in OWNED_FLAGS), None):
        raise ConfigError(f"vLLM's flag {owned} cannot be used under vllama", f"use {OWNED_FLAGS[owned]}")
    if flag is not None:
        return None if dot else flag
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    raise ConfigError(f"vLLM has no flag {name}", f"did you mean {near[0]}?" if near else "see vLLM's documentation")


def _values(rest: Sequence[str]) -> list[str]:
    values: list[str] = []
    for argument in rest:
        # As argparse tells flags from values.
        if argument.startswith("-") and not (_NEGATIVE.fullmatch(argument) or " " in argument or argument == "-"):
            break
        values.append(argument)
    return values


def _consumed(flag: Mapping[str, Any] | None, values: Sequence[str]) -> int:
    if flag is None:
        return len(values)
    match flag["nargs"]:
        case 0:
            return 0
        case None | "?":
            return min(1, len(values))
        case "+" | "*":
            return len(values)
        case count:
            return min(int(count), len(values))


def _check_values(name: str, flag: Mapping[str, Any], values: Sequence[str]) -> None:
    if flag["nargs"] == 0:
        if values:
            raise ConfigError(f"vLLM's flag {name} takes no value", f"write {name} alone")
        return
    if not values and flag["nargs"] in (None, "+"):
        raise ConfigError(f"vLLM's flag {name} needs a value", f"write {name}=VALUE")
    for value in values:
        if flag["choices"] and value not in flag["choices"]:
            raise ConfigError(f"vLLM's flag {name} cannot be {value!r}", "choose from " + ", ".join(flag["choices"]))
        # Optional numbers are None where the text says so.
        converter = None if value in ("", "None") else {"int": int, "float": float}.get(flag["type"])
        try:
            _ = converter and converter(value)
        except ValueError:
            kind = "a whole number" if converter is int else "a number"
            raise ConfigError(f"vLLM's flag {name} cannot be {value!r}", f"give {kind}") from None
