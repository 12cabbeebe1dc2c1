"""`vllama serve`."""

from collections.abc import Callable
from typing import Any

import click

from vllama.cli._help import SectionedCommand, SectionedOption
from vllama.engine.profile import Profile

_GATEWAY = "Gateway"
_ENGINE = "Engine"


def _option(section: str, name: str, **more: Any) -> Callable[[Any], Any]:
    return click.option(name, cls=SectionedOption, section=section, **more)


@click.command(cls=SectionedCommand)
@_option(
    _GATEWAY,
    "--model",
    multiple=True,
    help="Model to serve: demo, a folder, a Hugging Face id, or NAME=SOURCE. Can be repeated.",
)
@_option(
    _GATEWAY,
    "--lora",
    multiple=True,
    help="LoRA adapter to serve as a model: NAME=PATH or NAME=PATH@BASE. Can be repeated.",
)
@_option(_GATEWAY, "--preload", multiple=True, help="Model to load at once, not at its first request. Can be repeated.")
@_option(_GATEWAY, "--pin", multiple=True, help="Model to load at once and never to unload. Can be repeated.")
@_option(
    _GATEWAY,
    "--keep-warm",
    multiple=True,
    help="Model to load at once and whenever there is room for it. Can be repeated.",
)
@_option(
    _GATEWAY, "--max-loaded-models", type=int, help="Most models in memory at once (three for each GPU, or on a CPU)."
)
@_option(_GATEWAY, "--max-requests", type=int, help="Most requests in flight; more get 503 at once (4096).")
@_option(_GATEWAY, "--host", help="Address to listen on (127.0.0.1).")
@_option(_GATEWAY, "--port", type=int, help="Port to listen on (11434).")
@_option(_GATEWAY, "--keep-alive", help="How long an idle model stays loaded (5m; -1 is forever).")
@_option(_GATEWAY, "--engine-url", help="Use a server that already runs: http://host:port or unix:/path.")
@_option(_GATEWAY, "--log-level", help="debug, info, warning or error (info).")
@_option(
    _ENGINE,
    "--profile",
    type=click.Choice([*map(str, Profile)]),
    help="Hardware to run on (cuda where an NVIDIA GPU is found).",
)
@_option(
    _ENGINE,
    "--engine-python",
    type=click.Path(),
    help="Interpreter of an environment that has vLLM, instead of installing one.",
)
@_option(_ENGINE, "--vllm-port", type=int, help="TCP port for vLLM (a private Unix socket).")
@_option(_ENGINE, "--gpu-memory-utilization", type=float, help="Fraction of the GPU's memory to use.")
@_option(_ENGINE, "--max-model-len", help="Context length in tokens (what fits).")
@_option(_ENGINE, "--memory-limit", type=float, help="GiB of memory for all engines together (what is free).")
@_option(_ENGINE, "--max-loras", type=int, help="LoRA adapters that one batch can mix.")
@_option(_ENGINE, "--max-cpu-loras", type=int, help="LoRA adapters kept in RAM.")
@_option(_ENGINE, "--max-lora-rank", type=int, help="Highest rank of a LoRA adapter (by adapter).")
@_option(_ENGINE, "--max-num-seqs", type=int, help="Most sequences at once.")
@_option(_ENGINE, "--tensor-parallel-size", type=int, help="GPUs to split a model over.")
@_option(_ENGINE, "--dtype", help="Type of weights and activations (auto).")
@_option(_ENGINE, "--quantization", help="Quantization method (the checkpoint's).")
@_option(_ENGINE, "--startup", help="What a start may cost: fast, balanced or throughput (balanced).")
@_option(
    _ENGINE, "--standby/--no-standby", default=None, help="Keep a process with vLLM imported, to start engines sooner."
)
@_option(
    _ENGINE,
    "--enforce-eager",
    is_flag=True,
    default=None,
    help="Start quicker and answer slower: no compiling, no CUDA graphs.",
)
@_option(_ENGINE, "--tool-call-parser", help="vLLM's tool-call parser, or none (by model).")
@_option(_ENGINE, "--reasoning-parser", help="vLLM's reasoning parser, or none (by model).")
@click.pass_obj
def serve(vllm_args: list[str], /, profile: str | None, **given: Any) -> None:
    """Serve models to clients of Ollama and of OpenAI. Everything after -- goes to vLLM as it is.

    Without --model the demo models are served. The engine is installed on the first run.
    """
    from vllama.cli._install import install_engine
    from vllama.cli._serving import loads_shown
    from vllama.server import run
    from vllama.settings import load

    settings = load(
        engine_profile=profile,
        vllm_args=vllm_args or None,
        **{name: [*value] or None if isinstance(value, tuple) else value for name, value in given.items()},
    )
    with loads_shown() as show_loads:
        run(settings, install_engine, show_loads)
