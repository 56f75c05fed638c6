"""`adapterhub list`: the adapters of the registry."""

import click

from adapterhub_cli.output import data_options, print_rows, say


@click.command("list")
@data_options
def list_adapters(as_json: bool, quiet: bool) -> None:
    """List all adapters.

    \b
    Examples:
      adapterhub list
      adapterhub list --json
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    rows = [
        {
            "name": adapter.name,
            "latest": adapter.latest,
            "kind": adapter.kind,
            "tags": list(adapter.tags) if as_json else ", ".join(adapter.tags),
            "aliases": dict(adapter.aliases)
            if as_json
            else ", ".join(f"{alias}={number}" for alias, number in adapter.aliases.items()),
        }
        for adapter in registry.list()
    ]
    if not rows and not as_json:
        say("no adapters yet; add one with: adapterhub add FILE --name namespace/name")
    print_rows(rows, key="name", as_json=as_json, quiet=quiet)
