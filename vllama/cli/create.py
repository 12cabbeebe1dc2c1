"""`vllama create`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vllama.errors import VllamaError


def create(
    model: Annotated[str, typer.Argument(help="Name of the new model.", show_default=False)],
    file: Annotated[
        str, typer.Option("--file", "-f", help="The Modelfile; - reads it from standard input.")
    ] = "Modelfile",
    quantize: Annotated[
        str, typer.Option("--quantize", "-q", help="Quantization for the server to make.", show_default=False)
    ] = "",
) -> None:
    """Create a model from a Modelfile, with the local files that it names."""
    from vllama.cli._blobs import upload
    from vllama.cli._client import connect
    from vllama.cli._steps import show_transfer
    from vllama.cli.transfer import follow
    from vllama.models.modelfile_parser import parse_modelfile

    parsed = parse_modelfile(_read(file))
