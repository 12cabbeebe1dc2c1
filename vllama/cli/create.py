"""`vllama create`."""

import sys
from pathlib import Path

import click

from vllama.errors import VllamaError


@click.command
@click.argument("model", help="Name of the new model.")
@click.option("--file", "-f", default="Modelfile", show_default=True, help="The Modelfile; - is standard input.")
@click.option("--quantize", "-q", default="", hidden=True, help="Refused by the server, with advice.")
def create(model: str, file: str, quantize: str) -> None:
    """Create a model from a Modelfile and the local files that it names."""
    from vllama.cli._blobs import upload
    from vllama.cli._client import connect
    from vllama.cli._steps import show_transfer
    from vllama.cli.transfer import follow
    from vllama.models.modelfile_parser import read_modelfile
    from vllama.models.modelfile_request import to_request
    from vllama.models.names import is_valid

    if not is_valid(model):  # the server would say so, too, when all is uploaded
        raise VllamaError("invalid model name")
    recipe = read_modelfile(_read(file))
    for warning in recipe.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    folder = Path() if file == "-" else Path(file).expanduser().parent
    creation = to_request(recipe, folder)
    with connect() as server, show_transfer() as show:
        digests = upload(server, [*creation.files.values(), *creation.adapters.values()], show)
        body = creation.body(model, digests) | ({"quantize": quantize} if quantize else {})
        follow(server, "/api/create", body, show)


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise VllamaError(f"the Modelfile {file} cannot be read ({error.strerror})", "name it with -f") from None
