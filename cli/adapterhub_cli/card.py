"""`adapterhub card`: the model card of a version."""

from pathlib import Path

import click

from adapterhub_cli.output import say


@click.command()
@click.argument("reference", metavar="REF")
@click.option(
    "--out", type=click.Path(path_type=Path), help="A file, in place of stdout; its pictures go beside it."
)
def card(reference: str, out: Path | None) -> None:
    """Print the model card of REF, a README.md as the Hugging Face Hub reads it.

    What the author wrote (`adapterhub describe --card`) is its text; else it is written from what is known.

    \b
    Examples:
      adapterhub card me/ink@prod
      adapterhub card me/ink --out README.md
    """
    from adapterhub.errors import ExportBlockedError
    from adapterhub_registry.files import write_atomically
    from adapterhub_registry.store import Registry

    registry = Registry()
    version = registry.resolve(reference)
    text = registry.card(version.reference)
    if out is None:
        click.echo(text, nl=False)
        return
    pictures = {out.with_name(item.name): registry.read(item.sha256) for item in registry.previews(version)}
    blocked = [path for path, content in pictures.items() if path.exists() and path.read_bytes() != content]
    if blocked:
        raise ExportBlockedError(blocked)
    for path, content in pictures.items():
        write_atomically(path, content)
    write_atomically(out, text.encode())
    say(f"wrote {', '.join(map(str, [out, *pictures]))}")
