"""`adapterhub serve`: what is here, for others, over HTTP."""

import click

from adapterhub_cli.serve_runtime import serve_runtime


@click.group()
def serve() -> None:
    """Serve what is here over HTTP."""


for command in (serve_runtime,):
    serve.add_command(command)
