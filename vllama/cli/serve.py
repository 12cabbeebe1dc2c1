"""`vllama serve`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vllama.engine.profile import Profile

_GATEWAY = "Gateway"
_ENGINE = "Engine"


def _option(help_: str, panel: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=panel, show_default=False, metavar=metavar)


def _repeated(help_: str) -> Any:
    return _option(f"{help_} Can be repeated.", _GATEWAY, metavar="<str>")


def serve(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        _repeated("Model to serve: demo, a folder, a Hugging Face id, or NAME=SOURCE."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        _repeated("LoRA adapter to serve as a model: NAME=PATH or NAME=PATH@BASE."),
    ] = None,
    preload: Annotated[
        list[str] | None,
        _repeated("Model to load at once, not at its first request."),
    ] = None,
    pin: Annotated[list[str] | None, _repeated("Model to load at once and never to unload.")] = None,
    keep_warm: Annotated[
        list[str] | None,
        _repeated("Model to load at once and whenever there is room for it."),
    ] = None,
    max_loaded_models: Annotated[
        int | None, _option("Most models in memory at once (three for each GPU, or on a CPU).", _GATEWAY)
    ] = None,
    host: Annotated[str | None, _option("Address to listen on (127.0.0.1).", _GATEWAY)] = None,
    port: Annotated[int | None, _option("Port to listen on (11434).", _GATEWAY)] = None,
    keep_alive: Annotated[
        str | None, _option("How long an idle model stays loaded (5m; -1 is forever).", _GATEWAY)
    ] = None,
    engine_url: Annotated[
        str | None, _option("Use a server that already runs: http://host:port or unix:/path.", _GATEWAY)
    ] = None,
    log_level: Annotated[str | None, _option("debug, info, warning or error (info).", _GATEWAY)] = None,
    profile: Annotated[
        Profile | None, _option("Hardware to run on (cuda where an NVIDIA GPU is found).", _ENGINE)
    ] = None,
    engine_python: Annotated[
        Path | None, _option("Interpreter of an environment that has vLLM, instead of installing one.", _ENGINE)
    ] = None,
    vllm_port: Annotated[int | None, _option("TCP port for vLLM (a private Unix socket).", _ENGINE)] = None,
    gpu_memory_utilization: Annotated[float | None, _option("Fraction of the GPU's memory to use.", _ENGINE)] = None,
    max_model_len: Annotated[str | None, _option("Context length in tokens (what fits).", _ENGINE)] = None,
    memory_limit: Annotated[
        float | None, _option("GiB of memory for all engines together (what is free).", _ENGINE)
    ] = None,
    max_loras: Annotated[int | None, _option("LoRA adapters that one batch can mix.", _ENGINE)] = None,
    max_cpu_loras: Annotated[int | None, _option("LoRA adapters kept in RAM.", _ENGINE)] = None,
    max_lora_rank: Annotated[int | None, _option("Highest rank of a LoRA adapter (by adapter).", _ENGINE)] = None,
    max_num_seqs: Annotated[int | None, _option("Most sequences at once.", _ENGINE)] = None,
    tensor_parallel_size: Annotated[int | None, _option("GPUs to split a model over.", _ENGINE)] = None,
    dtype: Annotated[str | None, _option("Type of weights and activations (auto).", _ENGINE)] = None,
    quantization: Annotated[str | None, _option("Quantization method (the checkpoint's).", _ENGINE)] = None,
    startup: Annotated[
        str | None, _option("What a start may cost: fast, balanced or throughput (balanced).", _ENGINE)
    ] = None,
    standby: Annotated[
        bool | None,
        _option("Keep a process with vLLM imported, to start engines sooner.", _ENGINE, "--standby/--no-standby"),
    ] = None,
    enforce_eager: Annotated[
        bool | None,
        _option("Start quicker and answer slower: no compiling, no CUDA graphs.", _ENGINE, "--enforce-eager"),
    ] = None,
    tool_call_parser: Annotated[str | None, _option("vLLM's tool-call parser, or none (by model).", _ENGINE)] = None,
    reasoning_parser: Annotated[str | None, _option("vLLM's reasoning parser, or none (by model).", _ENGINE)] = None,
) -> None:
    """Serve models to clients of Ollama and of OpenAI. Everything after -- goes to vLLM as it is.

    Without --model the demo models are served. The engine is installed on the first run.
    """
    from vllama.cli._install import install_engine
    from vllama.cli._serving import loads_shown
    from vllama.server import run
    from vllama.settings import load

    settings = load(
        model=model or None,
        lora=lora or None,
        preload=preload or None,
        pin=pin or None,
        keep_warm=keep_warm or None,
        max_loaded_models=max_loaded_models,
        host=host,
        port=port,
        keep_alive=keep_alive,
        engine_url=engine_url,
        log_level=log_level,
        engine_profile=profile,
        engine_python=engine_python,
        vllm_port=vllm_port,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        memory_limit=memory_limit,
        max_loras=max_loras,
        max_cpu_loras=max_cpu_loras,
        max_lora_rank=max_lora_rank,
        max_num_seqs=max_num_seqs,
        tensor_parallel_size=tensor_parallel_size,
        dtype=dtype,
        quantization=quantization,
        startup=startup,
        standby=standby,
        enforce_eager=enforce_eager,
        tool_call_parser=tool_call_parser,
        reasoning_parser=reasoning_parser,
        vllm_args=context.obj or None,
    )
    with loads_shown() as show_loads:
        run(settings, install_engine, show_loads)
