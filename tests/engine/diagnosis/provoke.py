"""Let a real engine fail in every way that can be had without a GPU, and show what the client gets to read.

    VLLAMA_ENGINE_PYTHON=… python -m tests.engine.diagnosis.provoke [--logs FOLDER] [CASE ...]

To be run when vLLM is updated: a rule whose text vLLM has changed shows here as a bare exception, or as `it exited with
status 1`. Every case goes through the whole product: `vllama serve` with a spoiled copy of the demo model, and one
request. Some faults are found before vLLM is started; their line is vLLama's own. About half a minute a case. The logs
are kept where --logs says: shortened, they are what the tests of the rules are made of.
"""

import argparse
import os
import shlex
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.engine.diagnosis import damage
from tests.served import ROOT, SCRIPT, Served, environment

CHAT = ROOT / "vllama" / "demo" / "chat"
ADAPTER = ROOT / "vllama" / "demo" / "adapter"
_QUANTIZED = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
_LOADING = "Starting to load model"
_SMALL_SHM = "exec unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size=64k tmpfs /dev/shm; exec \"$@\"' sh"
_FULL_DISK = (
    'exec unshare --map-root-user --mount sh -c \'mount -t tmpfs -o size=8k tmpfs "$HF_MODULES_CACHE"; '
    'head -c 8192 /dev/zero >"$HF_MODULES_CACHE"/full; exec "$@"\' sh'
)


@dataclass(frozen=True)
class Case:
    """One fault.

    spoil: done to the copy of the model. arguments: for `vllama serve`. variables: for its environment. shell: put
    before the engine's command, in a script that stands in for its interpreter. source: what is served. meddle: called
    with the server and the engine's log while this starts.
    """

    spoil: damage.Damage = damage.nothing
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    shell: str = ""
    source: Path = CHAT
    meddle: Callable[[Served, Path], None] | None = None


def _kill(number: int, process: str) -> Callable[[Served, Path], None]:
    """Signal one of vLLM's processes as soon as it loads the weights."""

    def meddle(served: Served, log: Path) -> None:
        while not (log.exists() and _LOADING in log.read_text(errors="replace")):
            if served.process.poll() is not None:
                return
            time.sleep(0.05)
        for child in psutil.Process(served.process.pid).children(recursive=True):
            if process in f"{child.name()} {' '.join(child.cmdline())}":
                child.send_signal(number)
                return

    return meddle


CASES = {
    "broken-config": Case(damage.overwrite("config.json", '{"architectures": [')),
    "no-config": Case(damage.without("config.json")),
    "no-model-type": Case(damage.config(model_type=None)),
    "no-weights": Case(damage.without("model.safetensors")),
    "cut-off-weights": Case(damage.cut_off),
    "broken-header": Case(damage.broken_header),
    "git-lfs": Case(damage.overwrite("model.safetensors", "version https://git-lfs.github.com/spec/v1\nsize 9\n")),
    "foreign-weights": Case(damage.foreign_tensors),
    "wrong-shapes": Case(damage.config(hidden_size=64, head_dim=32)),
    "missing-shards": Case(damage.lost_shard),
    "no-tokenizer": Case(damage.without("tokenizer.json", "tokenizer_config.json")),
    "broken-tokenizer": Case(damage.overwrite("tokenizer.json", '{"version": ')),
    "adapter": Case(source=ADAPTER),
    "unknown-architecture": Case(damage.config(architectures=["FooForCausalLM"])),
    "unknown-model-type": Case(damage.config(architectures=["FooForCausalLM"], model_type="foozle")),
    "remote-code": Case(damage.own_code),
    "remote-code-packages": Case(damage.own_code, ("--", "--trust-remote-code")),
    "unknown-quantization": Case(damage.config(quantization_config={"quant_method": "foo"})),
    "other-quantization": Case(damage.config(quantization_config=_QUANTIZED), ("--quantization", "awq")),
    "not-quantized": Case(arguments=("--quantization", "awq")),
    "half-quantization": Case(damage.config(quantization_config={"quant_method": "gptq", "bits": 4})),
    "dtype": Case(arguments=("--dtype", "float15")),
    "cpu-cache-too-large": Case(variables={"VLLM_CPU_KVCACHE_SPACE": "100000"}),
    "context-too-long": Case(arguments=("--max-model-len", "1m"), variables={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "0"}),
    "context-too-long-for-cache": Case(
        damage.config(max_position_embeddings=4_000_000), ("--max-model-len", "3000000")
    ),
    "heads-not-divisible": Case(arguments=("--tensor-parallel-size", "3")),
    "adapter-rank": Case(arguments=("--", "--enable-lora", "--max-lora-rank", "1", "--lora-modules", f"a={ADAPTER}")),
    "unknown-flag": Case(arguments=("--", "--max-modl-len", "9")),
    "unknown-parser": Case(arguments=("--tool-call-parser", "nosuch")),
    "port-taken": Case(arguments=("--vllm-port", "{taken}")),
    "killed": Case(meddle=_kill(signal.SIGKILL, "Worker")),
    "killed-core": Case(meddle=_kill(signal.SIGKILL, "EngineCore")),
    "illegal-instruction": Case(meddle=_kill(signal.SIGILL, "Worker")),
    "no-memory": Case(shell="ulimit -v 4000000; exec"),
    "open-files": Case(shell="ulimit -n 40; exec"),
    "shared-memory": Case(shell=_SMALL_SHM),
    "disk-full": Case(
        damage.own_code, ("--", "--trust-remote-code"), {"HF_MODULES_CACHE": "{folder}/modules"}, _FULL_DISK
    ),
    "missing-module": Case(shell="PYTHONPATH=$PYTHONPATH:{folder} exec"),
    "no-compiler": Case(arguments=("--", "--no-enforce-eager"), shell="PATH={folder}/bin exec"),
    "not-in-cache": Case(source=Path("nobody/nothing-at-all"), variables={"HF_HUB_OFFLINE": "1"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--logs", type=Path, help="where to keep vLLM's logs")
    parser.add_argument("names", nargs="*", metavar="CASE", choices=[*CASES, []])
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vllama-provoke-") as folder,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        for name in given.names or CASES:
            _provoke(name, CASES[name], Path(folder), taken.getsockname()[1])
            log = Path(folder, "home", "logs", f"{name}-latest.log")
            if given.logs is not None and log.exists():
                shutil.copy(log, given.logs)


def _provoke(name: str, case: Case, folder: Path, taken: int) -> None:
    own = folder / name
    own.mkdir()
    (own / "msgspec.py").write_text("import a_package_of_nobody\n")
    (own / "modules").mkdir()
    (own / "bin").mkdir()
    for tool in ("lscpu", "sh", "uname"):
        (own / "bin" / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    source = str(case.source)
    if case.source.is_dir():
        source = str(shutil.copytree(case.source, own / "model"))
        case.spoil(own / "model")
    values = {"folder": str(own), "taken": str(taken)}
    arguments = ["--model", f"{name}={source}", *(argument.format(**values) for argument in case.arguments)]
    variables = {key: value.format(**values) for key, value in case.variables.items()}
    variables["VLLAMA_HOME"] = str(folder / "home")
    if case.shell:  # which only an engine that is started, not forked, is given
        variables["VLLAMA_STANDBY"] = "0"
        variables["VLLAMA_ENGINE_PYTHON"] = str(_stand_in(own, case.shell.replace("{folder}", str(own))))
    print(f"\n{name}\n  $ vllama serve {shlex.join(arguments)}", flush=True)
    log = folder / "home" / "logs" / f"{name}-latest.log"
    served = Served([SCRIPT, "serve", "--port", "0", *arguments], environment(**variables))
    try:
        answer = _ask(served, name, case, log)
    finally:
        served.close()
    print(f"  vLLM:   {_describe(log)}\n  client: {answer}", flush=True)


def _stand_in(folder: Path, shell: str) -> Path:
    """A script in place of the engine's interpreter, which spoils nothing but the server."""
    real = os.environ["VLLAMA_ENGINE_PYTHON"]
    script = folder / "python"
    script.write_text(f'#!/bin/sh\ncase " $* " in *" serve "*) {shell} {real} "$@";; esac\nexec {real} "$@"\n')
    script.chmod(0o755)
    return script


def _ask(served: Served, name: str, case: Case, log: Path) -> str:
    try:
        served.wait_listening()
    except AssertionError:
        return "`vllama serve` ends: " + served.log.strip().splitlines()[-1]
    if case.meddle is not None:
        threading.Thread(target=case.meddle, args=(served, log), daemon=True).start()
    answer = httpx.post(
        f"{served.url}/api/generate", json={"model": name, "prompt": "Hello!", "stream": False}, timeout=300
    )
    return f"HTTP {answer.status_code} {answer.json().get('error', 'no error')}"


def _describe(log: Path) -> str:
    """How much there was to read."""
    if not log.exists():
        return "not started"
    lines = log.read_text(errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    return f"{len(lines)} lines, the last {len(lines) - starts[-1]} a traceback" if starts else f"{len(lines)} lines"


if __name__ == "__main__":
    main()
