"""`adapterhub alias`: point an alias at a version, take it away, or say where it stood."""

import click

from adapterhub_cli.output import data_options, print_rows, say


@click.command()
@click.argument("name")
@click.argument("alias", required=False)
@click.argument("version", type=int, required=False)
@click.option("--expect", type=int, help="Move it only if it stands at this version; 0 means nowhere yet.")
@click.option("--remove", is_flag=True, help="Take ALIAS away.")
@click.option("--history", is_flag=True, help="Print every move of ALIAS, or of all, oldest first.")
@data_options
def alias(
    name: str,
    alias: str | None,
    version: int | None,
    expect: int | None,
    remove: bool,
    history: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Point ALIAS of NAME at VERSION.

    \b
    Examples:
      adapterhub alias me/ink prod 3
      adapterhub alias me/ink prod 4 --expect 3
      adapterhub alias me/ink prod --remove
      adapterhub alias me/ink --history
    """
    from adapterhub_registry.store import Registry

    if history:
        if version is not None or remove or expect is not None:
            raise click.UsageError("--history takes NAME and perhaps ALIAS, and moves nothing")
        moves = Registry().alias_moves(name, alias)
        empty = None if as_json else "-"
        rows = [
            {
                "time": move.time,
                "actor": move.actor,
                "alias": move.alias,
                "from": empty if move.before is None else move.before,
                "to": empty if move.after is None else move.after,
            }
            for move in moves
        ]
        print_rows(rows, key="alias", as_json=as_json, quiet=quiet)
        if not moves:
            say("it was never moved" if alias else "there were no aliases")
    elif alias is None or (version is None) is not remove:
        raise click.UsageError("name ALIAS and VERSION, or ALIAS and --remove, or --history")
    elif version is None:
        Registry().remove_alias(name, alias, expected=expect)
        say(f"{name}@{alias} is gone")
    else:
        if expect is None:
            Registry().set_alias(name, alias, version)
        else:
            Registry().set_alias(name, alias, version, expected=expect or None)
        say(f"{name}@{alias} is version {version} now")
