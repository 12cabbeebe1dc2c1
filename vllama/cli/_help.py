"""How commands explain themselves."""

from collections import defaultdict
from typing import Any

from typer.core import TyperCommand


class SectionedCommand(TyperCommand):
    """Lists its options below the headings that they name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections = defaultdict[str, list[tuple[str, str]]](list)
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                sections[getattr(parameter, "rich_help_panel", None) or "Options"].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
