"""`vllama show`."""

from typing import Any

import click

from vllama.cli._options import Form, form_option, print_json
from vllama.cli._sections import sections
from vllama.errors import VllamaError

_PARTS = ("license", "modelfile", "parameters", "system", "template")


@click.command
@click.argument("model", help="Model to show.")
@click.option("--license", is_flag=True, help="Show its licence.")
@click.option("--modelfile", is_flag=True, help="Show its Modelfile.")
@click.option("--parameters", is_flag=True, help="Show its parameters.")
@click.option("--system", is_flag=True, help="Show its system message.")
@click.option("--template", is_flag=True, help="Show its template.")
@click.option("--verbose", "-v", is_flag=True, help="Show its metadata and tensors, too.")
@form_option
def show(model: str, verbose: bool, form: Form, **asked: bool) -> None:
    """Show information for a model."""
    from vllama.cli._client import connect

    parts = [name for name in _PARTS if asked[name]]
    if len(parts) > 1:
        raise VllamaError("more than one part is asked for", f"give only one of --{', --'.join(parts)}")
    with connect() as server:
        shown: dict[str, Any] = server.post("/api/show", {"model": model, "verbose": verbose})
    if form is Form.JSON:
        print_json({parts[0]: shown.get(parts[0], "")} if parts else shown)
    elif parts:
        print(shown.get(parts[0], ""))
    else:
        print(sections(shown, verbose=verbose), end="")
