"""The documentation of settings is made from the settings themselves; this keeps the two alike.

`VLLAMA_WRITE_DOCS=1 uv run pytest tests/test_docs.py` writes docs/configuration.md anew.
"""

import json
import os
import re
import tomllib

import msgspec
import pytest
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from tests.served import ROOT
from vllama.cli import serve
from vllama.engine.progress import Phase
from vllama.settings import Settings
from vllama.wire.engines import Overview

DOCUMENT = ROOT / "docs" / "configuration.md"
SETTINGS = {setting.name: setting for setting in fields(Settings)}
FLAGS = {option.name: option.help or "" for option in serve.serve.params}
HEAD = """# Configuration

Each setting has a key in `vllama.toml` and an environment variable, most also a flag of `vllama serve`. Flags win over
`VLLAMA_*` variables, these over `OLLAMA_*` variables, these over `vllama.toml`, which is looked for in the working
folder, then in the user's configuration folder (`~/.config/vllama/vllama.toml`); `VLLAMA_CONFIG` names another file.
Durations are seconds or like `90s`, `5m` or `1h30m`; lists in variables are separated by commas (`VLLAMA_VLLM_ARGS`: as
in a shell). What has no default here is left to vLLM, or not set. For example:

```toml
model = ["small=Qwen/Qwen3-0.6B", "./my-model"]
keep_alive = "30m"
max_model_len = "16k"
```

| Key | Variable | Flag | Default | |
|---|---|---|---|---|
"""

TAIL = """
Of Ollama's own variables those named as an alias are read. All others are ignored, among them `OLLAMA_NUM_PARALLEL`
(vLLM batches as many requests as fit: `max_num_seqs`), `OLLAMA_FLASH_ATTENTION`, `OLLAMA_KV_CACHE_TYPE` and
`OLLAMA_GPU_OVERHEAD` (arguments for vLLM do such things), `OLLAMA_NO_CLOUD` and `OLLAMA_REMOTES` (there is no cloud
behind this server), and `OLLAMA_API_KEY`, which is for clients.
"""


def _flag(name: str) -> str:
    special = {"vllm_args": "after `--`", "engine_profile": "`--profile`", "standby": "`--no-standby`"}
    if name in special:
        return special[name]
    return f"`--{name.replace('_', '-')}`" if name in FLAGS else ""


def _default(setting: FieldInfo) -> str:
    if setting.name == "home":
        return "`~/.local/share/vllama`"
    if setting.default in (None, NODEFAULT):
        return ""
    if isinstance(setting.default, bool):
        return f"`{str(setting.default).lower()}`"
    return f"`{setting.default:g}`" if isinstance(setting.default, float) else f"`{setting.default}`"


def _description(setting: FieldInfo) -> str:
    (text,) = [note for note in setting.type.__metadata__ if isinstance(note, str)]
    return text


def document() -> str:
    rows = [
        f"| `{name}` | `VLLAMA_{name.upper()}` | {_flag(name)} | {_default(setting)} | {_description(setting)} |"
        for name, setting in SETTINGS.items()
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL


def test_every_setting_is_documented() -> None:
    if os.environ.get("VLLAMA_WRITE_DOCS"):
        DOCUMENT.write_text(document())
    assert DOCUMENT.read_text() == document()


@pytest.mark.parametrize("name", ["api_keys", "engine_api_key"])
def test_a_key_is_neither_shown_nor_a_flag(name: str) -> None:
    (row,) = [line for line in document().splitlines() if line.startswith(f"| `{name}` |")]
    assert [cell.strip() for cell in row.split("|")][3:5] == ["", ""]
    assert name not in FLAGS


def test_every_flag_is_a_setting() -> None:
    assert FLAGS.keys() - {"profile"} <= SETTINGS.keys()


def test_every_variable_that_the_documents_name_exists() -> None:
    known = {f"VLLAMA_{name.upper()}" for name in SETTINGS} | {"VLLAMA_CONFIG", "VLLAMA_RECORD"}
    for document in ("README.md", "docs/models.md", "docs/compatibility.md"):
        assert set(re.findall(r"VLLAMA_[A-Z_]+", (ROOT / document).read_text())) <= known, document


def test_the_size_of_the_library() -> None:
    families = tomllib.loads((ROOT / "vllama" / "models" / "library.toml").read_text()).values()
    tags = sum(len(family) - 1 for family in families)  # beside `latest`, which names one of them
    assert f" {len(families)} models in {tags} " in (ROOT / "docs" / "models.md").read_text()


def test_what_is_told_of_engines() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    example = text.partition("```json\n")[2].partition("```")[0]
    told = msgspec.json.decode(example, type=Overview)
    assert json.loads(msgspec.json.encode(told)) == json.loads(example)
    assert re.findall(r"^\| `([^`]+)` \|", text.partition("| Phase |")[2], re.MULTILINE) == [*Phase]


def test_help_texts_name_the_defaults_that_hold() -> None:
    for name, text in FLAGS.items():
        default = SETTINGS[name].default if name in SETTINGS else None
        if default is not None and (match := re.search(r"\((\S+)\)\.$", text)):
            assert match[1] == str(default), name
