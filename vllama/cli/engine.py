"""`vllama engine`: the environment that the engine runs in."""

import time

import click

from vllama.engine.profile import Profile


@click.group
def engine() -> None:
    """Manage the environment that vLLM runs in."""


@engine.command
@click.option(
    "--profile", type=click.Choice([*map(str, Profile)]), help="Hardware to build it for; found out by default."
)
@click.option("--reinstall", is_flag=True, help="Build it anew even if it is there.")
def install(profile: str | None, reinstall: bool) -> None:
    """Build the environment, as the first `vllama serve` does.

    It lies below VLLAMA_HOME.
    """
    from vllama import settings as settings_module
    from vllama.cli._install import install_engine

    settings = settings_module.load(engine_profile=profile)
    start = time.monotonic()
    environment = install_engine(settings, reinstall=reinstall)
    seconds = time.monotonic() - start
    click.echo(
        f"vLLM {environment.version} ({environment.profile.value}) in {environment.python.parents[1]}, {seconds:.1f} s"
    )
