"""vLLM's own benchmark, `vllm bench serve`, pointed at an engine and at the gateway before it."""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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
    "from vllm.benchmarks.serve import add_cli_args, main;"
    "from vllm.utils.argparse_utils import FlexibleArgumentParser;"
    "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)
_PROMPT_TOKENS = 64
_EACH = 4
"""Requests of each client."""
TARGETS = ("direct", "gateway")
FEW = 32
"""Clients up to which the goal is to be reached."""
_KEPT = ("output_throughput", "median_ttft_ms", "p99_ttft_ms", "median_itl_ms", "p99_itl_ms")
Found = dict[int, dict[str, list[dict[str, Any]]]]
"""What it told each time, by clients and target."""


def interpreter() -> Path:
    """Of the environment that has vLLM."""
    os.environ.update(environment())
    settings = load(home=ENGINE_HOME)
    return ensure_environment(
        settings.home, profile=settings.engine_profile, engine_python=settings.engine_python,
        find_links=settings.find_links, report=lambda _step: None,
    ).python  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """How it is started."""

    python: Path
    tokenizer: str | Path
    tokens: int

    def command(self, url: str, model: str, clients: int, folder: str) -> list[str]:
        return list(map(str, [
            self.python, "-c", _START, "--backend", "openai", "--endpoint", "/v1/completions", "--base-url", url,
            "--model", model, "--tokenizer", self.tokenizer, "--dataset-name", "random",
            "--random-input-len", _PROMPT_TOKENS, "--random-output-len", self.tokens, "--ignore-eos",
            "--temperature", 0, "--num-prompts", clients * _EACH, "--max-concurrency", clients,
            "--num-warmups", clients, "--disable-tqdm", "--percentile-metrics", "ttft,itl",
            "--save-result", "--result-dir", folder, "--result-filename", "found.json",
        ]))  # fmt: skip

    async def ask(self, tested: UnderTest, target: str, clients: int) -> dict[str, Any]:
        """What it has found, in vLLM's own words. Raises RuntimeError with what it said where that is nothing."""
        url, model = (tested.engine, tested.served_name) if target == "direct" else (tested.gateway, tested.model)
        with tempfile.TemporaryDirectory() as folder:
            output = await _run(self.command(url, model, clients, folder))
            result = Path(folder, "found.json")
            if not result.exists():
                raise RuntimeError(f"vLLM's benchmark failed: {output[-2000:]}")
            found: dict[str, Any] = json.loads(result.read_text())
        if found["completed"] < clients * _EACH:
            raise RuntimeError(f"{target}: {found['completed']} of {clients * _EACH} answers: {output[-2000:]}")
        print(f"{clients} clients, {target}: {found['output_throughput']:.0f} tokens/s", file=sys.stderr, flush=True)
        return {name: found[name] for name in _KEPT}


async def _run(command: Sequence[str]) -> str:
    """What it wrote."""
    process = await asyncio.create_subprocess_exec(
        *command, env=environment(HF_HUB_OFFLINE="1"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(LOAD_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")


async def compare(tested: UnderTest, arguments: argparse.Namespace) -> int:
    """In turn, round after round; status 1 where the gateway misses the goal with up to 32 clients."""
    bench = Bench(interpreter(), demo.CHAT if arguments.model == "demo" else arguments.model, arguments.tokens)
    found: Found = {clients: {target: [] for target in TARGETS} for clients in arguments.clients}
    for turn in range(arguments.rounds):
        for clients in arguments.clients:
            for target in TARGETS[:: 1 if turn % 2 else -1]:
                found[clients][target].append(await bench.ask(tested, target, clients))
    ratios = {clients: ratio(by_target) for clients, by_target in found.items()}
    rows = [
        [clients, target, "1" if target == "direct" else f"{ratios[clients]:.3f}", *_medians(ones)]
        for clients, by_target in found.items()
        for target, ones in by_target.items()
    ]
    print(table(["clients", "vllm bench serve", "ratio", "tokens/s", "TTFT p50 ms", "p99", "ITL p50 ms", "p99"], rows))
    write(arguments.json, {"vllm_client": found, "ratios": ratios})
    return 1 if any(reached < arguments.goal for clients, reached in ratios.items() if clients <= FEW) else 0


def ratio(by_target: dict[str, list[dict[str, Any]]]) -> float:
    """Of the gateway's tokens a second to the engine's own: the median of what the rounds say."""
    speeds = [[one[_KEPT[0]] for one in by_target[target]] for target in TARGETS]
    return statistics.median(own / other for other, own in zip(*speeds, strict=True))


def _medians(ones: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{statistics.median(one[name] for one in ones):.1f}" for name in _KEPT]
