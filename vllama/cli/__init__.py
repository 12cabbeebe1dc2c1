"""The `vllama` command.

Commands import what they need when they run: `vllama --help` must not wait for a web server's imports.
"""

import os
import sys
from collections.abc import Sequence

import click

from vllama import __version__
from vllama.cli import bench, create, doctor, engine, listing, logs, merge, models, run, serve, show, transfer, warm
from vllama.errors import VllamaError

_ALIASES = {"ls": "list"}


class _Commands(click.Group):
    """In the order in which they are written here."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[
        serve.serve,
        run.run,
        listing.list_,
        listing.ps,
        show.show,
        transfer.pull,
        transfer.push,
        create.create,
        models.cp,
        models.rm,
        models.stop,
        warm.warm,
        bench.bench,
        logs.logs,
        doctor.doctor,
        merge.merge,
        engine.engine,
    ],
)
@click.version_option(__version__, "--version", "-v", message="vllama version is %(version)s")
@click.pass_context
def app(context: click.Context) -> None:
    """Ollama's interface on vLLM's engine."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors that a user can act on are one line, without a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What follows a bare -- of serve is vLLM's; Click would mix it with our own arguments.
    split = given.index("--") if given[:1] == ["serve"] and "--" in given else len(given)
    try:
        sys.exit(app.main(given[:split], prog_name="vllama", obj=given[split + 1 :], standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except VllamaError as error:
        print(f"vllama: {error}", file=sys.stderr)
        sys.exit(1)
    except click.Abort:  # what becomes of Ctrl-C
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
