"""`adapterhub versions`: the versions of one adapter."""

import click

from adapterhub_cli.output import data_options, print_rows


@click.command()
@click.argument("name")
@data_options
def versions(name: str, as_json: bool, quiet: bool) -> None:
    """List the versions of NAME, oldest first.

    \b
    Examples:
      adapterhub versions me/ink
      adapterhub versions me/ink --quiet
    """
    from adapterhub_registry.store import Registry

    rows = [
        {
            "version": version.reference,
            "state": version.state,
            "created": version.created,
            "author": version.author,
            "digest": version.digest if as_json else version.digest[:19],
            "message": version.message,
        }
        for version in Registry().versions(name)
    ]
    print_rows(rows, key="version", as_json=as_json, quiet=quiet)
