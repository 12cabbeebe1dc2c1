"""Merging an adapter into its base: with a stand-in for the engine's environment, and with the real one."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import psutil
import pytest

from tests.models.conftest import build as build
from tests.models.test_adapters import LORA, adapter_files
from tests.served import ENGINE_HOME
from vllama import demo
from vllama.engine import merge as module
from vllama.engine._build import MARKER
from vllama.engine._uv import InstallStep, UvError
from vllama.engine.install import Environment, configured_find_links, ensure_environment
from vllama.engine.merge import merge
from vllama.engine.profile import Profile
from vllama.errors import EngineError, InstallError, VllamaError
from vllama.models.inspect import inspect

ADAPTER = Path(demo.__file__).parent / "adapter"

STAND_IN = """#!{python}
import json, os, shutil, sys
assert sys.argv[1:4] == ["-m", "vllama_engine", "merge"], sys.argv
assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and "PYTHONPATH" in os.environ
folders = dict(zip(sys.argv[4::2], sys.argv[5::2]))
print("some library's noise")
print(json.dumps({{"step": "merging", "fraction": 0.5}}), flush=True)
for name in ("config.json", "model.safetensors"):
    shutil.copy(os.path.join(folders["--base"], name), folders["--output"])
print("a warning", file=sys.stderr)
{more}
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Environment]:
    """An environment whose child does what it should, and then what a test says."""

    def make(more: str = "") -> Environment:
        python = tmp_path / "python"
        python.write_text(STAND_IN.format(python=sys.executable, more=more))
        python.chmod(0o755)
        return Environment(python, "9.9", Profile.CPU, tmp_path / "flags.json")

    return make


def ignore(_step: InstallStep) -> None:
    pass


def test_a_merge(stand_in: Callable[..., Environment], tmp_path: Path) -> None:
    steps: list[InstallStep] = []
    output = tmp_path / "models" / "merged" / "parrot"
    assert merge(ADAPTER, demo.CHAT, output, stand_in(), steps.append) == output
    assert [(step.what, step.fraction) for step in steps] == [("merging", 0.5), ("copying the tokenizer", 0.95)]
    merged, base = inspect(output), inspect(demo.CHAT)
    assert (merged.chat_template, merged.capabilities) == (base.chat_template, base.capabilities)
    assert {path.name for path in output.iterdir()} == {path.name for path in demo.CHAT.iterdir()}
    assert [path.name for path in output.parent.iterdir() if path.is_dir()] == ["parrot"]


def test_the_tokenizer_of_the_training_is_taken(stand_in: Callable[..., Environment], tmp_path: Path) -> None:
    adapter = shutil.copytree(ADAPTER, tmp_path / "adapter")
    (adapter / "tokenizer_config.json").write_text("{}")
    (adapter / "chat_template.jinja").write_text("TRAINED")
    output = merge(adapter, demo.CHAT, tmp_path / "merged", stand_in(), ignore)
    assert inspect(output).chat_template == "TRAINED"
    assert not (output / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            'print(json.dumps({"error": "it does not fit", "advice": "take another"})); sys.exit(1)',
            "it does not fit: take another",
        ),
        ("raise ValueError('no luck')", "merging failed (ValueError: no luck): merge it where it was trained"),
        ("sys.stderr.close(); os._exit(3)", "merging failed (a warning): merge it where it was trained"),
        (
            "os.kill(os.getpid(), 9)",
            "merging was ended by signal 9: the machine may be out of memory: stop other programs and repeat",
        ),
    ],
)
def test_a_failed_merge_leaves_nothing(
    stand_in: Callable[..., Environment], tmp_path: Path, more: str, told: str
) -> None:
    output = tmp_path / "merged" / "parrot"
    with pytest.raises(EngineError) as raised:
        merge(ADAPTER, demo.CHAT, output, stand_in(more), ignore)
    assert str(raised.value) == told
    assert [path for path in output.parent.iterdir() if path.is_dir()] == []


def test_an_interrupted_merge_ends_its_child(stand_in: Callable[..., Environment], tmp_path: Path) -> None:
    def interrupt(_step: InstallStep) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(ADAPTER, demo.CHAT, tmp_path / "merged/parrot", stand_in("import time; time.sleep(60)"), interrupt)
    assert [child for child in psutil.Process().children() if "--adapter" in child.cmdline()] == []
    assert [path for path in (tmp_path / "merged").iterdir() if path.is_dir()] == []


def test_what_a_killed_merge_has_left_is_removed(stand_in: Callable[..., Environment], tmp_path: Path) -> None:
    left = tmp_path / "merged" / ".other.merging-0123"
    left.mkdir(parents=True)
    merge(ADAPTER, demo.CHAT, tmp_path / "merged" / "parrot", stand_in(), ignore)
    assert not left.exists()


@pytest.fixture
def ours(tmp_path: Path, stand_in: Callable[..., Environment]) -> Environment:
    """An environment that looks like one that we have built."""
    python = tmp_path / "root" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (tmp_path / "root" / MARKER).write_text("{}")
    stand_in().python.rename(python)
    return Environment(python, "9.9", Profile.CPU, tmp_path / "flags.json")


def test_peft_is_added_to_an_environment_of_ours(
    ours: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def run_uv(arguments: list[str], **options: Any) -> None:
        ran.append((arguments, options["environ"]["UV_FIND_LINKS"]))
        package = tmp_path / "root/lib/python3.11/site-packages/peft/__init__.py"
        package.parent.mkdir(parents=True)
        package.write_text("")

    monkeypatch.setattr(module, "run_uv", run_uv)
    for name in ("a", "b"):
        merge(ADAPTER, demo.CHAT, tmp_path / "merged" / name, ours, ignore, ["/wheels"])
    ((arguments, links),) = ran
    assert arguments[:4] == ["pip", "install", "--python", str(ours.python)]
    assert arguments[-2:] == ["--extra", "merge"]
    assert links == "/wheels"


def test_peft_that_cannot_be_had(ours: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_uv(arguments: list[str], **options: Any) -> None:
        raise UvError("error: no such package peft\n")

    monkeypatch.setattr(module, "run_uv", run_uv)
    with pytest.raises(InstallError, match="peft"):
        merge(ADAPTER, demo.CHAT, tmp_path / "merged" / "a", ours, ignore)


Usage = namedtuple("Usage", "free")
Memory = namedtuple("Memory", "available")


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(VllamaError) as raised:
        call()
    return str(raised.value)


def test_what_cannot_be_merged_is_refused_before(
    stand_in: Callable[..., Environment],
    build: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment, output = stand_in("sys.exit(9)"), tmp_path / "merged" / "parrot"
    quantised = shutil.copytree(demo.CHAT, tmp_path / "fp8")
    config = json.loads((quantised / "config.json").read_bytes()) | {"quantization_config": {"quant_method": "fp8"}}
    (quantised / "config.json").write_text(json.dumps(config))
    text = refused(lambda: merge(ADAPTER, quantised, output, environment, ignore))
    assert "is quantised (FP8), and an adapter cannot be added to packed weights: name the model" in text
    prompts = build(files=adapter_files(LORA | {"peft_type": "PROMPT_TUNING"}), name="prompts")
    assert "cannot be merged" in refused(lambda: merge(prompts, demo.CHAT, output, environment, ignore))
    other = build(files=adapter_files(), name="other")
    assert "was not trained on" in refused(lambda: merge(other, demo.CHAT, output, environment, ignore))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(0))
    assert "has 0.0 GiB free and the merged" in refused(lambda: merge(ADAPTER, demo.CHAT, output, environment, ignore))
    monkeypatch.undo()
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: Memory(0))
    assert "GiB of memory and 0.0 are free" in refused(lambda: merge(ADAPTER, demo.CHAT, output, environment, ignore))
    monkeypatch.undo()
    output.mkdir(parents=True)
    assert "exists already: remove it" in refused(lambda: merge(ADAPTER, demo.CHAT, output, environment, ignore))
    with filelock.FileLock(output.parent / ".lock"):
        text = refused(lambda: merge(ADAPTER, demo.CHAT, output.parent / "x", environment, ignore))
    assert "another merge is running" in text
    (tmp_path / "file").write_text("")
    text = refused(lambda: merge(ADAPTER, demo.CHAT, tmp_path / "file" / "x", environment, ignore))
    assert "cannot be written" in text


# Makes a DoRA adapter with a trained head, merges nothing, and compares what both models say of the same tokens.
MAKE = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
torch.manual_seed(0)
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_dora=True, use_rslora=True,
                      modules_to_save=["lm_head"], task_type="CAUSAL_LM")
model = get_peft_model(base, settings)
for parameter in model.parameters():
    if parameter.requires_grad:
        parameter.data += 0.05 * torch.randn_like(parameter)
model.save_pretrained(sys.argv[2])
"""
COMPARE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
base, adapter, merged = sys.argv[1:]
tokens = torch.arange(50)[None]
with torch.no_grad():
    plain = load(base)(tokens).logits
    wanted = PeftModel.from_pretrained(load(base), adapter)(tokens).logits
    got = load(merged)(tokens).logits
print((wanted - got).abs().max().item(), (wanted - plain).abs().max().item())
"""


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_a_real_merge(tmp_path: Path) -> None:
    python = os.environ.get("VLLAMA_ENGINE_PYTHON")
    environment = ensure_environment(
        ENGINE_HOME,
        profile=Profile.CPU,
        engine_python=Path(python) if python else None,
        find_links=configured_find_links(os.environ),
        report=ignore,
    )

    def run(script: str, *arguments: Path) -> str:
        command = [str(environment.python), "-c", script, *map(str, arguments)]
        variables = os.environ | {"HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout

    find_links = configured_find_links(os.environ)
    parrot = tmp_path / "parrot"
    merge(demo.ADAPTER, demo.CHAT, parrot, environment, ignore, find_links)  # PEFT is there from now on
    assert inspect(parrot).parameter_count == inspect(demo.CHAT).parameter_count
    adapter, output = tmp_path / "adapter", tmp_path / "merged"
    run(MAKE, demo.CHAT, adapter)
    merge(adapter, demo.CHAT, output, environment, ignore, find_links)
    difference, change = map(float, run(COMPARE, demo.CHAT, adapter, output).split())
    assert difference < 0.1 < 1 < change
    checkpoint = inspect(output)
    assert (checkpoint.quantization_level, checkpoint.chats) == ("BF16", True)
    assert checkpoint.config["tie_word_embeddings"] is False
