"""`vllama merge`: a model of an adapter and its base."""

import os

import click


@click.command
@click.argument("name", help="An adapter: its name, NAME=FOLDER or NAME=FOLDER@BASE.")
@click.option("--output", help="Name of the new model (the adapter's).")
def merge(name: str, output: str | None) -> None:
    """Merge an adapter that vLLM cannot load into its base's weights.

    It cannot load DoRA, or adapters that replace whole modules.
    The result is a model of its own, served under the adapter's name or the one that --output gives.
    """
    from vllama.cli._install import install_engine
    from vllama.cli._progress import show_install
    from vllama.engine.install import configured_find_links
    from vllama.engine.merge import merge as merge_folders
    from vllama.models.merging import base_folder, find_adapter, merged_folder, register, target_name
    from vllama.models.store import Store
    from vllama.server import open_catalogue
    from vllama.settings import load

    settings = load()
    store = Store(settings.home / "models")
    catalogue = open_catalogue(settings, store, strict=False)
    adapter = find_adapter(name, catalogue)
    assert adapter.adapter is not None
    base = base_folder(adapter)
    target = target_name(output, adapter, catalogue)
    environment = install_engine(settings)
    with show_install() as report:
        folder = merge_folders(
            adapter.adapter.path,
            base,
            merged_folder(store, target),
            environment,
            report,
            [*settings.find_links, *configured_find_links(os.environ)],
        )
    register(store, target, folder, adapter)
    click.echo(f"{target.short}: {adapter.name.short} merged into {adapter.parent or base}, in {folder}")
