"""vLLM's own benchmark, `vllm bench serve`, pointed at an engine and at the gateway before it."""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._measuring import LOAD_S, table, write
from benchmarks._under_test import UnderTest
from tests.served import ENGINE_HOME, environment
from vllama import demo
from vllama.engine.install import ensure_environment
from vllama.settings import load

# Not `python -m vllm`: all its commands are imported then, some of which a build for CPUs lacks libraries of.
_START = (
    "from vllm.benchmarks.serve import add_cli_args, main; from vllm.utils.argparse_utils import FlexibleArgumentParser;"
    "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)
_PROMPT_TOKENS = 64
_EACH = 4
"""Requests of each client."""
TARGETS = ("direct", "gateway")


def interpreter() -> Path:
    """Of the environment that has vLLM."""
    os.environ.update(environment())
    settings = load(home=ENGINE_HOME)
    return ensure_environment(
        settings.home, profile=settings.engine_profile, engine_python=settings.engine_python,
        find_links=settings.find_links, report=lambda _step: None,
    ).python  # fmt: skip


async def ask(python: Path, tested: UnderTest, target: str, *, clients: int, tokens: int, tokenizer: Path) -> dict[str, Any]:
    """What it has found: vLLM's own numbers."""
    url, model = (tested.engine, tested.served_name) if target == "direct" else (tested.gateway, tested.model)
    with tempfile.TemporaryDirectory() as folder:
        arguments: Sequence[str | Path] = [
            "--backend", "openai", "--endpoint", "/v1/completions", "--base-url", url, "--model", model,
            "--tokenizer", tokenizer, "--dataset-name", "random", "--random-input-len", str(_PROMPT_TOKENS),
            "--random-output-len", str(tokens), "--num-prompts", str(clients * _EACH), "--max-concurrency", str(clients),
            "--num-warmups", str(clients), "--ignore-eos", "--temperature", "0", "--disable-tqdm",
            "--percentile-metrics", "ttft,itl", "--save-result", "--result-dir", folder, "--result-filename", "found.json",
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            python, "-c", _START, *map(str, arguments), cwd=folder, env=environment(HF_HUB_OFFLINE="1"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(LOAD_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        result = Path(folder, "found.json")
        if process.returncode or not result.exists():
            raise RuntimeError(f"vLLM's benchmark failed: {output.decode(errors='replace')[-2000:]}")
        found: dict[str, Any] = json.loads(result.read_text())
    if found["completed"] < clients * _EACH:
        raise RuntimeError(f"{target}: {found['completed']} of {clients * _EACH} answers")
    print(f"{clients} clients, {target}: {found['output_throughput']:.0f} tokens/s", file=sys.stderr, flush=True)
    return found


async def compare(tested: UnderTest, arguments: argparse.Namespace) -> int:
    """In turn, round after round; status 1 where the gateway misses the goal with up to 32 clients."""
    python = interpreter()
    tokenizer = demo.CHAT if arguments.model == "demo" else arguments.model
    found: dict[int, dict[str, list[dict[str, Any]]]] = {
        clients: {target: [] for target in TARGETS} for clients in arguments.clients
    }
    for turn in range(arguments.rounds):
        for clients in arguments.clients:
            for target in TARGETS[:: 1 if turn % 2 else -1]:
                one = await ask(python, tested, target, clients=clients, tokens=arguments.tokens, tokenizer=tokenizer)
                found[clients][target].append(one)
    rows, ratios = [], {}
    for clients, by_target in found.items():
        speeds = {target: [one["output_throughput"] for one in by_target[target]] for target in TARGETS}
        ratios[clients] = statistics.median(
            own / other for own, other in zip(speeds["gateway"], speeds["direct"], strict=True)
        )
        for target in TARGETS:
            times = [
                f"{statistics.median(one[name] for one in by_target[target]):.1f}"
                for name in ("median_ttft_ms", "p99_ttft_ms", "median_itl_ms", "p99_itl_ms")
            ]
            ratio = "1" if target == "direct" else f"{ratios[clients]:.3f}"
            rows.append([clients, target, f"{statistics.median(speeds[target]):.0f}", ratio, *times])
    head = ["clients", "vllm bench serve", "tokens/s", "ratio", "TTFT p50 ms", "p99", "ITL p50 ms", "p99"]
    print(table(head, rows))
    kept = ("output_throughput", "median_ttft_ms", "p99_ttft_ms", "median_itl_ms", "p99_itl_ms", "completed")
    cells = {
        clients: {target: [{name: one[name] for name in kept} for one in ones] for target, ones in by_target.items()}
        for clients, by_target in found.items()
    }
    write(arguments.json, {"vllm_client": cells, "ratios": ratios})
    return 1 if any(ratio < arguments.goal for clients, ratio in ratios.items() if clients <= 32) else 0
