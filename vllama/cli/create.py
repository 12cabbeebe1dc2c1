"""`vllama create`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vllama.errors import VllamaError


def create(
    model: Annotated[str, typer.Argument(help="Name of the new model.", show_default=False)],
    file: Annotated[str, typer.Option("--file", "-f", help="The Modelfile; - is standard input.")] = "Modelfile",
    quantize: Annotated[
        str, typer.Option("--quantize", "-q", help="Quantization for the server to make.", show_default=False)
    ] = "",
) -> None:
    """Create a model from a Modelfile and the local files that it names."""
    from vllama.cli._client import connect
    from vllama.cli._recipe import create_request
    from vllama.cli._steps import show_transfer
    from vllama.cli.transfer import follow
    from vllama.models.modelfile_parser import read_modelfile

    recipe = read_modelfile(_read(file))
    for warning in recipe.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    folder = Path() if file == "-" else Path(file).expanduser().parent
    with connect() as server, show_transfer() as show:
        body = create_request(server, recipe, folder, show)
        follow(server, "/api/create", {"model": model, **body, **({"quantize": quantize} if quantize else {})}, show)


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise VllamaError(f"the Modelfile {file} cannot be read ({error.strerror})", "name it with -f") from None
