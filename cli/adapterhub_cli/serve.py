"""`adapterhub serve`: the servers, each in a module of its own."""

from importlib import import_module
from importlib.util import find_spec

import click

SERVERS = ("registry", "runtime")


class Servers(click.Group):
    """Finds the command `registry` in `adapterhub_cli.serve_registry`, and so on."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the servers that there are."""
        del ctx
        return [name for name in SERVERS if find_spec(f"adapterhub_cli.serve_{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return getattr(import_module(f"adapterhub_cli.serve_{cmd_name}"), cmd_name)


@click.group(cls=Servers)
def serve() -> None:
    """Serve the registry, or pictures, over HTTP.

    \b
    Examples:
      adapterhub serve registry
    """
