"""`adapterhub serve registry`: share a registry over HTTP."""

from pathlib import Path

import click


@click.command("registry")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="0 takes a free one."
)
@click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help="The registry, if not ADAPTERHUB_HOME."
)
@click.option(
    "--rate",
    type=click.IntRange(0),
    default=6000,
    show_default=True,
    metavar="N",
    help="Requests a minute of one user, or of one address without a token; 0 for any number.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0.1),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="After so long, a client that does not go on with its request, or with the answer, is cut off.",
)
def serve_registry(host: str, port: int, home: Path | None, rate: int, patience: float) -> None:
    """Serve the registry to `adapterhub` and to Hugging Face clients until it is interrupted.

    Another address than that of this machine needs a token: adapterhub admin token add.

    \b
    Examples:
      adapterhub serve registry
      adapterhub serve registry --host 0.0.0.0 --port 8765 --home /srv/adapterhub
    """
    from adapterhub_cli.output import say
    from adapterhub_registry.server.process import serve

    serve(
        home,
        host=host,
        port=port,
        requests_per_minute=rate or None,
        patience_s=patience,
        on_ready=lambda url: say(f"the registry is at {url}"),
    )
