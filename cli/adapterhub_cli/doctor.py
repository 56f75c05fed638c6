"""`adapterhub doctor`: look whether everything is as it should be."""

import click

from adapterhub_cli.output import data_options, print_rows, say


@click.command()
@data_options
def doctor(as_json: bool, quiet: bool) -> None:
    """Check versions, extras, device, home, disk, permissions, database, files and remotes; change nothing.

    Exits with 1 if something is wrong. `verify` also hashes every file.

    \b
    Examples:
      adapterhub doctor
      adapterhub doctor --json
    """
    from adapterhub.doctor import examine
    from adapterhub_registry.settings import RegistrySettings

    checks = list(examine(RegistrySettings.from_environment().home))
    if as_json:
        rows = [
            {"check": item.name, "ok": item.is_ok, "detail": item.detail, "advice": item.advice}
            for item in checks
        ]
    else:
        rows = [
            {"check": item.name, "ok": "yes" if item.is_ok else "NO", "detail": item.detail}
            for item in checks
        ]
    print_rows(rows, key="check", as_json=as_json, quiet=quiet)
    for item in checks:
        if item.advice:
            say(f"{item.name}: {item.advice}")
    if not all(item.is_ok for item in checks):
        raise click.exceptions.Exit(1)
