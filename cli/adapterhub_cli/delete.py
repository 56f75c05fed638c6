"""`adapterhub delete`: delete a version for good."""

import click

from adapterhub_cli.output import say


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(reference: str, yes: bool) -> None:
    """Delete a version; its number and digest stay taken for ever. `yank` is gentler.

    \b
    Examples:
      adapterhub delete me/ink@3 --yes
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    version = registry.resolve(reference)
    if not yes:
        click.confirm(f"delete {version.reference} for good?", abort=True, err=True)
    say(f"deleted {registry.delete(version.reference)}")
