"""How commands explain themselves."""

from collections import defaultdict
from typing import Any

import click


class SectionedOption(click.Option):
    """An option that is listed with others of its kind. section: their heading."""

    def __init__(self, *args: Any, section: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.section = section


class SectionedCommand(click.Command):
    """Lists its options below the headings that they name."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = defaultdict[str, list[tuple[str, str]]](list)
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                sections[getattr(parameter, "section", "Options")].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
