"""`adapterhub yank`: hide a version without taking it from those who use it."""

import click

from adapterhub_cli.output import say


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--why", help="The reason, for those who use it.")
@click.option("--undo", is_flag=True, help="Bring it back.")
def yank(reference: str, why: str | None, undo: bool) -> None:
    """Hide a version from `latest` and search; its number and digest still work.

    \b
    Examples:
      adapterhub yank me/ink@3 --why "trained on the wrong pictures"
      adapterhub yank me/ink@3 --undo
    """
    from adapterhub_registry.store import Registry

    if undo == (why is not None):
        raise click.UsageError("give either --why TEXT or --undo")
    registry = Registry()
    version = registry.unyank(reference) if undo else registry.yank(reference, why or "")
    say(f"{version.reference} is {version.state}")
