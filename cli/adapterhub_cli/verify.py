"""`adapterhub verify`: hash every stored file again."""

import click

from adapterhub_cli.output import data_options, print_rows, say


@click.command()
@click.argument("reference", metavar="[REF]", required=False)
@data_options
def verify(reference: str | None, as_json: bool, quiet: bool) -> None:
    """Hash the files of REF, or of all versions, and list what is damaged or missing; exit 1 if anything is.

    \b
    Examples:
      adapterhub verify
      adapterhub verify me/ink@3
    """
    from adapterhub_registry.store import Registry

    rows = [
        {"version": version.reference, "file": path, "problem": problem}
        for version, path, problem in Registry().verify(reference)
    ]
    print_rows(rows, key="version", as_json=as_json, quiet=quiet)
    if rows:
        raise click.exceptions.Exit(1)
    say("every file is whole")
