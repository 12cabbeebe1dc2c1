"""From a Modelfile to the request that makes its model, with the files that have to be uploaded for it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.models._repository import wanted_files
from vllama.models.create_request import NO_GGUF
from vllama.models.modelfile_parser import Command, ModelfileError, Recipe


@dataclass(frozen=True)
class Creation:
    """fields: the body of /api/create, but for the model's name and the two that digests go into. files, adapters: what
    to upload, by the names that the files get there."""

    fields: dict[str, Any]
    files: dict[str, Path]
    adapters: dict[str, Path]

    def body(self, model: str, digests: dict[Path, str]) -> dict[str, Any]:
        """The whole body, when all is uploaded. digests: of all files."""
        uploads = {"files": self.files, "adapters": self.adapters}
        named = {
            field: {name: digests[path] for name, path in paths.items()} for field, paths in uploads.items() if paths
        }
        return {"model": model, **self.fields, **named}


def to_request(recipe: Recipe, folder: Path) -> Creation:
    """folder: where the Modelfile lies, which its paths start from. Raises ConfigError for files that cannot be used.

    FROM that names a file or a folder uploads it, else it names a model; a name with a dot in front is always a path.
    """
    own, *others = recipe.sources
    if others:
        raise ModelfileError(others[0].line, "a second FROM is not supported: vLLM's models have all parts in one")
    path = _existing(own, folder)
    modelfile = recipe.modelfile
    fields = {
        "from": None if path else own.value,
        "template": modelfile.template,
        "system": modelfile.system,
        "parameters": dict(modelfile.parameters),
        "messages": [{"role": role, "content": content} for role, content in modelfile.messages],
        "license": list(modelfile.license),
        "renderer": modelfile.renderer,
        "parser": modelfile.parser,
        "requires": modelfile.requires,
    }
    return Creation(
        {name: value for name, value in fields.items() if value},
        _files(own, path) if path else {},
        _adapter(recipe.adapters, folder),
    )


def _existing(command: Command, folder: Path) -> Path | None:
    """The file or the folder that a value names; None where there is none, and it can be a model's name."""
    path = folder / os.path.expanduser(command.value)  # noqa: PTH111 - Path's raises for an unknown user
    if os.path.exists(path):  # noqa: PTH110 - Path's raises for a name that is too long
        return path
    if command.value.startswith((".", "/", "~")):
        raise ModelfileError(command.line, f"{command.name.upper()}: there is no {path}")
    return None


def _adapter(commands: Sequence[Command], folder: Path) -> dict[str, Path]:
    if not commands:
        return {}
    own, *others = commands
    if others:
        raise ModelfileError(others[0].line, "only one adapter is currently supported")
    if (path := _existing(own, folder)) is None:
        raise ModelfileError(own.line, f"ADAPTER: there is no {folder / own.value}")
    return _files(own, path)


def _files(command: Command, path: Path) -> dict[str, Path]:
    if path.is_file():
        path = _folder_of(command, path)
    # No model's files lie deeper, and a folder may be anything, someone's home too.
    found = {str(file.relative_to(path)): file for depth in ("*", "*/*") for file in path.glob(depth) if file.is_file()}
    files = {name: found[name] for name in wanted_files(found)}
    if not any(name.endswith(".safetensors") for name in files):
        gguf = next((name for name in found if name.endswith(".gguf")), None)
        text = NO_GGUF.format(gguf) if gguf else f"{path} holds no *.safetensors files"
        raise ModelfileError(command.line, f"{command.name.upper()}: {text}")
    return files


def _folder_of(command: Command, file: Path) -> Path:
    """A single file of weights stands for its folder: they are nothing without their settings."""
    if file.suffix != ".safetensors":
        text = NO_GGUF.format(file) if file.suffix == ".gguf" else f"{file} is no *.safetensors file, and no folder"
        raise ModelfileError(command.line, f"{command.name.upper()}: {text}")
    return file.parent
