"""`adapterhub bake`: write a checkpoint with adapters in its weights."""

from pathlib import Path

import click

from adapterhub_cli.output import progress, say


@click.command()
@click.argument("adapters", metavar="REF-or-FILE[:WEIGHT]...", nargs=-1, required=True)
@click.option("--base", required=True, help="A base's name, a directory, or a single-file checkpoint.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File or directory, as the base.")
def bake(adapters: tuple[str, ...], base: str, out: Path) -> None:
    """Write a checkpoint that draws as the base does with ADAPTERS composed.

    It goes from file to file: never more than one layer is in memory.

    \b
    Examples:
      adapterhub bake me/ink:0.8 --base mini --out ./mini-ink
      adapterhub bake me/ink me/corgi:0.5 --base sdxl.safetensors --out sdxl-ink.safetensors
    """
    from adapterhub import derive

    changed = derive.bake(base, adapters, out, on_tensor=progress("baking"))
    say(f"changed {changed} tensors")
    click.echo(str(out))
