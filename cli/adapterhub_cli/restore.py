"""`adapterhub restore`: make a home from a backup."""

from dataclasses import asdict
from pathlib import Path

import click

from adapterhub_cli.output import data_options, print_fields, progress, say


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--home", type=click.Path(path_type=Path), help="Where to; by default ADAPTERHUB_HOME.")
@data_options
def restore(directory: Path, home: Path | None, as_json: bool, quiet: bool) -> None:
    """Make a home from the backup in DIRECTORY: all of it, every byte verified, or nothing.

    The home must be new or empty.

    \b
    Examples:
      adapterhub restore /mnt/disk/adapterhub
      adapterhub restore /mnt/disk/adapterhub --home ~/adapterhub
    """
    from adapterhub_registry.backup import restore as restore_home
    from adapterhub_registry.settings import RegistrySettings

    target = home or RegistrySettings.from_environment().home
    done = restore_home(directory, target, progress("restoring"))
    print_fields({"home": str(target), **asdict(done)}, key="home", as_json=as_json, quiet=quiet)
    if home is not None:
        say(f"use it with: ADAPTERHUB_HOME={target} adapterhub list")
