"""`adapterhub find-image`: which adapters a picture was made with."""

from pathlib import Path

import click

from adapterhub_cli.output import data_options, print_rows, say


@click.command("find-image")
@click.argument("picture", type=click.Path(path_type=Path))
@data_options
def find_image(picture: Path, as_json: bool, quiet: bool) -> None:
    """Say which adapters a picture was made with, from our record or the web UI's `Lora hashes`.

    \b
    Examples:
      adapterhub find-image rocket.png
    """
    from adapterhub_registry.store import Registry

    used = Registry().find_image(picture)
    rows = [
        {
            "adapter": item.name,
            "hash": item.hash if as_json else item.hash[:19],
            "versions": [version.reference for version in item.found]
            if as_json
            else ", ".join(version.reference for version in item.found) or "not in this registry",
        }
        for item in used
    ]
    if not rows and not as_json:
        say("it was made without adapters")
    print_rows(rows, key="adapter", as_json=as_json, quiet=quiet)
