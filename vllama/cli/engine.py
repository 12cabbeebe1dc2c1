"""`vllama engine`: the environment that the engine runs in."""

import time
from typing import Annotated, Any

import typer

from vllama.engine.profile import Profile

app = typer.Typer(name="engine", help="Manage the environment that vLLM runs in.", no_args_is_help=True)


@app.callback()
def _engine() -> None:
    """Manage the environment that vLLM runs in."""


@app.command()
def install(
    profile: Annotated[Profile | None, typer.Option(help="Hardware to build it for; found out by default.")] = None,
    reinstall: Annotated[bool, typer.Option("--reinstall", help="Build it anew even if it is there.")] = False,
) -> None:
    """Build the engine's environment below VLLAMA_HOME, as the first `vllama serve` does."""
    from vllama import settings as settings_module
    from vllama.cli._install import install_engine

    given: dict[str, Any] = {} if profile is None else {"engine_profile": profile}
    settings = settings_module.load(**given)
    start = time.monotonic()
    environment = install_engine(settings, reinstall=reinstall)
    seconds = time.monotonic() - start
    typer.echo(
        f"vLLM {environment.version} ({environment.profile.value}) in {environment.python.parents[1]}, {seconds:.1f} s"
    )
