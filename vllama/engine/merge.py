"""A model of an adapter and its base: merged in the engine's environment, and put in place when it is whole."""

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import filelock
import psutil

from vllama.engine._build import MARKER, Report
from vllama.engine._find_links import resolve_links
from vllama.engine._uv import InstallStep, UvError, UvProgress, bound_process, clean_environ, run_uv
from vllama.engine._uv_errors import explain
from vllama.engine.install import Environment, launcher_path
from vllama.errors import ConfigError, EngineError
from vllama.models._repository import wanted_files
from vllama.models.adapters import inspect_adapter
from vllama.models.fit import check_fit
from vllama.models.inspect import Checkpoint, inspect

_GIB = 2**30
_TOKENIZERS = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template", "spiece")
_UNFINISHED = ".merging-"


def merge(
    adapter: Path,
    base: Path,
    output: Path,
    environment: Environment,
    report: Report,
    find_links: Sequence[str] = (),
) -> Path:
    """Write the model that an adapter makes of its base into the folder `output`, which must not exist yet.

    It is built aside and renamed. Blocks for minutes. report: called from this thread with each step. find_links:
    where to find PEFT's wheels, if the environment lacks it. Raises ConfigError for what cannot be merged, InstallError
    where there is no PEFT, and EngineError where merging failed.
    """
    found, weights = inspect_adapter(adapter), inspect(base)
    if not found.mergeable:
        raise ConfigError(f"{adapter} cannot be merged: {found.trouble}", "train a LoRA adapter instead")
    check_fit(found, output.name, weights, merging=True)
    _check(weights, found.size, output)
    with _aside(output) as unfinished:
        _ensure_peft(environment, find_links, report)
        _run(_command(environment, adapter, base, unfinished), report)
        report(InstallStep("copying the tokenizer", 0.95))
        _copy_small_files(base, adapter, unfinished)
        inspect(unfinished)
        unfinished.rename(output)
    return output


def _check(base: Checkpoint, more: int, output: Path) -> None:
    """What would fail after minutes is found out before."""
    if "quantization_config" in base.config:
        raise ConfigError(
            f"the base {base.path} is quantised ({base.quantization_level}), and an adapter cannot be added to packed "
            "weights",
            "name the model that it was quantised from as the base",
        )
    if output.exists():
        raise ConfigError(f"{output} exists already", "remove it, or choose another name with --output")
    needed = base.size + more
    free = shutil.disk_usage(_existing(output)).free
    if free < needed:
        raise ConfigError(
            f"the disk of {output} has {free / _GIB:.1f} GiB free and the merged model needs {needed / _GIB:.1f}",
            "make room, or set VLLAMA_HOME to another disk",
        )
    memory = psutil.virtual_memory().available
    if memory < needed:
        raise ConfigError(
            f"merging needs {needed / _GIB:.1f} GiB of memory and {memory / _GIB:.1f} are free",
            "stop what uses it, or merge on a larger machine",
        )


def _existing(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


@contextlib.contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """A new folder beside the place of the model, removed unless it was renamed. One merge runs at a time."""
    unfinished = output.with_name(f".{output.name}{_UNFINISHED}{secrets.token_hex(4)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(output.parent / ".lock", timeout=0):
            for left in output.parent.glob(f".*{_UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
            try:
                unfinished.mkdir()
                yield unfinished
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except filelock.Timeout:
        raise ConfigError(f"another merge is running in {output.parent}", "wait for it to end and repeat") from None
    except OSError as error:
        where = error.filename or output
        raise ConfigError(
            f"{where} cannot be written ({error.strerror})", "check the disk and its permissions"
        ) from None


def _ensure_peft(environment: Environment, find_links: Sequence[str], report: Report) -> None:
    """Add PEFT to an environment that we have built: not everybody merges. Others are their owners' to change."""
    root = environment.python.parents[1]
    if not (root / MARKER).is_file() or any(root.glob("lib/python*/site-packages/peft/__init__.py")):
        return
    report(InstallStep("installing PEFT"))
    links = ",".join(resolve_links(find_links, os.environ))
    arguments = ["pip", "install", "--python", str(environment.python), "-r", str(launcher_path() / "pyproject.toml")]
    try:
        with tempfile.TemporaryFile("w+") as log:
            variables = clean_environ(os.environ) | {"UV_FIND_LINKS": links}
            run_uv([*arguments, "--extra", "merge"], environ=variables, log=log, on_line=UvProgress(report))
    except UvError as error:
        raise explain(error.output, root) from error


def _command(environment: Environment, adapter: Path, base: Path, output: Path) -> list[str]:
    folders = {"--adapter": adapter, "--base": base, "--output": output}
    arguments = [str(part) for pair in folders.items() for part in pair]
    return [str(environment.python), "-m", "vllama_engine", "merge", *arguments]


def _run(command: list[str], report: Report) -> None:
    variables = clean_environ(os.environ) | {
        "PYTHONPATH": str(launcher_path()),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",  # engines are using the GPUs
        "PYTHONUNBUFFERED": "1",
    }
    with tempfile.TemporaryFile("w+", errors="replace") as log, bound_process(command, variables, log) as process:
        assert process.stdout is not None
        told = [line for line in map(_line, process.stdout) if line and not _report_step(line, report)]
        if process.wait():
            raise _failure(told, process.returncode, log)


def _line(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}


def _report_step(line: dict[str, Any], report: Report) -> bool:
    if "step" in line:
        report(InstallStep(str(line["step"]), line.get("fraction")))
    return "step" in line


def _failure(told: list[dict[str, Any]], status: int, log: IO[str]) -> EngineError:
    if told:
        return EngineError(str(told[-1].get("error")), str(told[-1].get("advice", "")))
    if status < 0:
        return EngineError(
            f"merging was ended by signal {-status}", "the machine may be out of memory: stop other programs and repeat"
        )
    log.seek(0)
    last = [line.strip() for line in log if line.strip()][-1:]
    return EngineError(f"merging failed ({last[0] if last else f'status {status}'})", "merge it where it was trained")


def _copy_small_files(base: Path, adapter: Path, output: Path) -> None:
    """What belongs to a model beside its weights and config, which are written already.

    An adapter's own tokenizer is the one that it was trained with.
    """
    names = [path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()]
    for name in wanted_files(names):
        target = output / name
        if not target.exists() and not name.endswith((".safetensors", ".bin", ".index.json")):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, target)
    if (adapter / "tokenizer_config.json").is_file():
        for path in adapter.iterdir():
            if path.name.startswith(_TOKENIZERS) and path.is_file():
                shutil.copyfile(path, output / path.name)
