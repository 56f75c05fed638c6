"""`adapterhub push`: send a version to a remote."""

import click

from adapterhub_cli.output import data_options, print_transfer


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--to", "remote", help="The remote; needed if there are several.")
@click.option("--renumber", is_flag=True, help="If the number is taken there, take the next one.")
@click.option("--alias", "aliases", multiple=True, help="An alias to point at it there; repeat for more.")
@data_options
def push(
    reference: str, remote: str | None, renumber: bool, aliases: tuple[str, ...], as_json: bool, quiet: bool
) -> None:
    """Push REF with its documents and previews; files that are there already are not sent.

    \b
    Examples:
      adapterhub push me/ink --to team
      adapterhub push me/ink@3 --to team --alias prod
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    name = remote or registry.only_remote()
    done = registry.push(reference, remote=name, renumber=renumber, aliases=aliases)
    print_transfer(done, where=name, as_json=as_json, quiet=quiet)
