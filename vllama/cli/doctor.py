"""`vllama doctor`."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vllama.cli._options import Form, form_option, print_json

if TYPE_CHECKING:
    from vllama.doctor import Finding

_WORDS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


@click.command
@form_option
@click.option("--deep", is_flag=True, help="Also see whether vLLM can be imported, some 20 s.")
def doctor(form: Form, deep: bool) -> None:
    """Check the machine, the engine, the models and the server.

    Says what to do where something is wrong.
    """
    import logging

    from vllama.cli._address import server_url
    from vllama.doctor import Level, examine

    # What is wrong with models is told as findings.
    logging.getLogger("vllama").addHandler(logging.NullHandler())
    findings = []
    show = _show if form is Form.TEXT else lambda _: None
    for finding in examine(server_url, deep=deep):
        findings.append(finding)
        show(finding)
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if form is Form.JSON:
        print_json({"findings": [asdict(finding) for finding in findings], "problems": problems})
    else:
        warnings = sum(finding.level is Level.WARNING for finding in findings)
        print(f"\n{_count(problems, 'problem')}, {_count(warnings, 'warning')}")
    sys.exit(1 if problems else 0)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _show(finding: "Finding") -> None:
    advice = f"\n{'':24}-> {finding.advice}" if finding.advice else ""
    if not sys.stdout.isatty():
        print(f"{_WORDS[finding.level]:<8} {finding.check:<14} {finding.found}{advice}", flush=True)
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    mark, colour = _MARKS[finding.level]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=1)
    grid.add_column(width=13)
    grid.add_column()
    grid.add_row(Text(mark, colour), finding.check, Text(finding.found))
    if finding.advice:
        grid.add_row("", "", Text(f"→ {finding.advice}", colour))
    Console().print(Padding(grid, (0, 0)))
