"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"


FormOption = Annotated[Form, typer.Option("--format", help="text, or json: the API's answer, for scripts.")]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="Accept a name that begins with http://.")]


def print_json(document: object) -> None:
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False))
