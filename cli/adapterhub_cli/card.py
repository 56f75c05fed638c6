"""`adapterhub card`: the model card of a version."""

from pathlib import Path

import click

from adapterhub_cli.output import say


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--out", type=click.Path(path_type=Path), help="A file, in place of stdout.")
def card(reference: str, out: Path | None) -> None:
    """Print the model card of REF, a README.md as the Hugging Face Hub reads it.

    What the author wrote (`adapterhub describe --card`) is its text; else it is written from what is known.

    \b
    Examples:
      adapterhub card me/ink@prod
      adapterhub card me/ink --out README.md
    """
    from adapterhub_registry.files import write_atomically
    from adapterhub_registry.store import Registry

    text = Registry().card(reference)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        say(f"wrote {out}")
