"""`adapterhub alias`: point an alias at a version."""

import click

from adapterhub_cli.output import say


@click.command()
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=int)
@click.option("--expect", type=int, help="Move it only if it stands at this version; 0 means nowhere yet.")
def alias(name: str, alias: str, version: int, expect: int | None) -> None:
    """Point ALIAS of NAME at VERSION.

    \b
    Examples:
      adapterhub alias me/ink prod 3
      adapterhub alias me/ink prod 4 --expect 3
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    if expect is None:
        registry.set_alias(name, alias, version)
    else:
        registry.set_alias(name, alias, version, expected=expect or None)
    say(f"{name}@{alias} is version {version} now")
