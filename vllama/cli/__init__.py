"""The `vllama` command.

Commands import what they need when they run: `vllama --help` must not wait for a web server's imports.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from vllama.cli import bench, create, doctor, engine, listing, logs, merge, models, run, serve, show, transfer, warm
from vllama.errors import VllamaError

app = typer.Typer(
    name="vllama",
    help="Ollama's interface on vLLM's engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("run", cls=run.Command)(run.run)
app.command("list")(listing.list_)
app.command("ls", hidden=True)(listing.list_)
app.command("ps")(listing.ps)
app.command("show")(show.show)
app.command("pull")(transfer.pull)
app.command("push")(transfer.push)
app.command("create")(create.create)
app.command("cp")(models.cp)
app.command("rm")(models.rm)
app.command("stop")(models.stop)
app.command("warm")(warm.warm)
app.command("bench")(bench.bench)
app.command("logs")(logs.logs)
app.command("doctor")(doctor.doctor)
app.command("merge")(merge.merge)
app.add_typer(engine.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from vllama import __version__

        typer.echo(f"vllama version is {__version__}")
        raise typer.Exit


@app.callback()
def _vllama(
    version: Annotated[
        bool,
        typer.Option("--version", "-v", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Ollama's interface on vLLM's engine."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors that a user can act on are one line, without a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What follows a bare -- of serve is vLLM's; Click would mix it with our own arguments.
    split = given.index("--") if given[:1] == ["serve"] and "--" in given else len(given)
    try:
        app(given[:split], prog_name="vllama", obj=given[split + 1 :])
    except VllamaError as error:
        print(f"vllama: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
