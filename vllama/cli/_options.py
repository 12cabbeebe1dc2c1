"""Options that several commands share."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Form(StrEnum):
    TEXT = "text"
    JSON = "json"


def choice(values: type[StrEnum], *names: str, meaning: str) -> Callable[[F], F]:
    """An option with one of these values, the first one by default."""
    return click.option(
        *names,
        type=click.Choice([value.value for value in values]),
        callback=lambda _context, _parameter, value: values(value),
        default=next(iter(values)).value,
        show_default=True,
        help=meaning,
    )


form_option = choice(Form, "--format", "form", meaning="text, or json: the API's answer, for scripts.")
insecure_option = click.option("--insecure", is_flag=True, help="Accept a name that begins with http://.")


def print_json(document: object) -> None:
    import json

    print(json.dumps(document, indent=2, ensure_ascii=False))
