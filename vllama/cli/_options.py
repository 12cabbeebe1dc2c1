"""Options that several commands share."""

from enum import StrEnum

import click


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"


form_option = click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Form]),
    callback=lambda _context, _parameter, value: Form(value),
    default=Form.TEXT.value,
    show_default=True,
    help="text, or json: the API's answer, for scripts.",
)
insecure_option = click.option("--insecure", is_flag=True, help="Accept a name that begins with http://.")


def print_json(document: object) -> None:
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False))
