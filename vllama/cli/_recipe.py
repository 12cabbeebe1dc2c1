"""What a Modelfile asks for, as a request to create it; the files that it names are sent first."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama.cli._blobs import upload
from vllama.cli._steps import Show
from vllama.models.modelfile_parser import Command, ModelfileError, Recipe

if TYPE_CHECKING:
    from vllama.cli._client import Server


def create_request(server: "Server", recipe: Recipe, folder: Path, show: Show) -> dict[str, Any]:
    """All of the request but the new model's name. folder: where the Modelfile's relative paths begin."""
    # Nothing is sent before all of the paths are known to be good.
    named = [(command, _local(command, folder)) for command in (*recipe.sources, *recipe.adapters)]
    sent: dict[str, dict[str, str]] = {"from": {}, "adapter": {}}
    for command, path in named:
        if path is not None:
            sent[command.name] |= upload(server, path, show)
    own = recipe.modelfile
    fields = {
        "from": next((command.value for command, path in named if path is None), ""),
        "files": sent["from"],
        "adapters": sent["adapter"],
        "system": own.system,
        "template": own.template,
        "parameters": own.parameters,
        "messages": [{"role": role, "content": content} for role, content in own.messages],
        "license": own.license,
        "requires": own.requires,
        "renderer": own.renderer,
        "parser": own.parser,
    }
    return {name: value for name, value in fields.items() if value}


def _local(command: Command, folder: Path) -> Path | None:
    """The file or folder that a command names, None where it is a model's name."""
    path = folder / Path(command.value).expanduser()
    if path.exists():
        return path
    if command.name == "adapter" or command.value.startswith(("/", "./", "../", "~")):
        what = f"{command.value} does not exist: check the path of {command.name.upper()}"
        raise ModelfileError(command.line, what)
    return None
