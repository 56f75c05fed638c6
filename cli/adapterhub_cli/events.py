"""`adapterhub events`: what changed in the registry."""

import click

from adapterhub_cli.output import data_options, print_rows


@click.command()
@click.argument("subject", default="")
@click.option("--limit", type=int, default=50, show_default=True)
@data_options
def events(subject: str, limit: int, as_json: bool, quiet: bool) -> None:
    """List changes, newest first; with SUBJECT only of what begins so.

    \b
    Examples:
      adapterhub events me/ink
      adapterhub events --limit 10 --json
    """
    from adapterhub_registry.store import Registry

    rows = [
        {
            "time": event.time,
            "actor": event.actor,
            "action": event.action,
            "subject": event.subject,
            "detail": dict(event.detail)
            if as_json
            else ", ".join(f"{name}={value}" for name, value in event.detail.items()),
        }
        for event in Registry().events(subject=subject, limit=limit)
    ]
    print_rows(rows, key="subject", as_json=as_json, quiet=quiet)
