"""`vllama show`."""

from typing import Annotated, Any

import typer

from vllama.cli._options import Form, FormOption, print_json
from vllama.cli._sections import sections
from vllama.errors import VllamaError


def show(
    model: Annotated[str, typer.Argument(help="Model to show.", show_default=False)],
    license_: Annotated[bool, typer.Option("--license", help="Show its licence.")] = False,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Show its Modelfile.")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Show its parameters.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Show its system message.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Show its template.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show its metadata and tensors, too.")] = False,
    form: FormOption = Form.TEXT,
) -> None:
    """Show information for a model."""
    from vllama.cli._client import connect

    asked = {
        "license": license_,
        "modelfile": modelfile,
        "parameters": parameters,
        "system": system,
        "template": template,
    }
    parts = [name for name, wanted in asked.items() if wanted]
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
