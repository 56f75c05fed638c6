"""`adapterhub remote`: other registries to push to and pull from."""

import click

from adapterhub_cli.output import data_options, print_rows, say


@click.group()
def remote() -> None:
    """Add, list and remove remotes."""


@remote.command("add")
@click.argument("name")
@click.argument("url")
def add_command(name: str, url: str) -> None:
    """Remember the registry at URL as NAME: https://host, or a directory, file:///path.

    \b
    Examples:
      adapterhub remote add team https://adapters.example.org
      adapterhub remote add team file:///mnt/share/adapters
    """
    from adapterhub_registry.store import Registry

    Registry().add_remote(name, url)
    say(f"{name} is {url} now")


@remote.command("list")
@data_options
def list_command(as_json: bool, quiet: bool) -> None:
    """List the remotes.

    \b
    Examples:
      adapterhub remote list
    """
    from adapterhub_registry.store import Registry

    rows = [{"name": name, "url": url} for name, url in Registry().remotes().items()]
    print_rows(rows, key="name", as_json=as_json, quiet=quiet)


@remote.command("remove")
@click.argument("name")
def remove_command(name: str) -> None:
    """Forget the remote NAME; nothing changes there.

    \b
    Examples:
      adapterhub remote remove team
    """
    from adapterhub_registry.store import Registry

    Registry().remove_remote(name)
    say(f"{name} is forgotten")
