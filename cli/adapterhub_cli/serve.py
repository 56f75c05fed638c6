"""`adapterhub serve`: what is here, for others, over HTTP."""

import click

from adapterhub_cli.serve_registry import serve_registry
from adapterhub_cli.serve_runtime import serve_runtime


@click.group()
def serve() -> None:
    """Serve the registry, or pictures, over HTTP.

    \b
    Examples:
      adapterhub serve registry
      adapterhub serve runtime --base mini
    """


for command in (serve_registry, serve_runtime):
    serve.add_command(command)
