"""`adapterhub export`: write an adapter for another tool."""

from pathlib import Path

import click

from adapterhub_cli.output import say

FORMATS = ("kohya", "diffusers", "peft", "comfy", "a1111")


@click.command()
@click.argument("subject", metavar="REF-or-FILE")
@click.option("--format", "format_name", type=click.Choice(FORMATS), default="kohya", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file; for peft a directory.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Of the factors.")
@click.option("--fold-alpha", is_flag=True, help="Multiply the scale into B, so that alpha = rank.")
@click.option("--strip", type=click.Choice(["training"]), help="Take out what tells of the training.")
def export(
    subject: str, format_name: str, out: Path, dtype: str | None, fold_alpha: bool, strip: str | None
) -> None:
    """Write an adapter as a file for another tool; `kohya` is the layout that every tool reads.

    \b
    Examples:
      adapterhub export me/ink@prod --out ink.safetensors
      adapterhub export me/ink --format diffusers --dtype float16 --out ink.safetensors
      adapterhub export me/ink --strip training --out public.safetensors
    """
    from adapterhub import derive

    for warning in derive.export(
        subject, out, format=format_name, dtype=dtype, fold_alpha=fold_alpha, strip=strip
    ):
        say(f"note: {warning}")
    click.echo(str(out))
