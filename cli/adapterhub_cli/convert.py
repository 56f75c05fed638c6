"""`adapterhub convert`: make a plain LoRA of any adapter, as a version or as a file."""

from collections import Counter
from pathlib import Path

import click

from adapterhub_cli.export import FORMATS
from adapterhub_cli.output import data_options, print_derived, print_fields, say


@click.command()
@click.argument("subject", metavar="REF-or-FILE")
@click.option("--name", help="namespace/name of the result.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a file, and no version.")
@click.option("--format", "format_name", type=click.Choice(FORMATS), default="kohya", help="Of the file.")
@click.option("--rank", type=int, help="The largest rank of a converted layer.")
@click.option("--energy", type=float, help="What a converted layer keeps of its squared norm.")
@click.option("--base", help="The base, on whose weights DoRA, OFT, GLoRA and (IA)^3 depend.")
@click.option("-m", "--message", default="", help="What to say of the version.")
@data_options
def convert(
    subject: str,
    name: str | None,
    out: Path | None,
    format_name: str,
    rank: int | None,
    energy: float | None,
    base: str | None,
    message: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a plain LoRA of LoHa, LoKr, LoCon, GLoRA, DoRA, OFT or whole differences.

    The first four have an exact form; others are exact at full rank, and say their error when they are cut.

    \b
    Examples:
      adapterhub convert lokr.safetensors --name me/ink
      adapterhub convert dora.safetensors --base mini --rank 32 --out plain.safetensors
    """
    from adapterhub import derive

    if (name is None) == (out is None):
        raise click.UsageError("say where the result goes: --name NAMESPACE/NAME or --out FILE")
    if out is not None:
        version = None
        done = derive.convert_file(subject, out, format=format_name, rank=rank, energy=energy, base=base)
    else:
        version, done = derive.convert(
            subject, name=name or "", rank=rank, energy=energy, base=base, message=message
        )
    counts = Counter(layer.algorithm for layer in done.layers)
    worst = max((layer.error for layer in done.layers), default=0.0)
    facts = {
        "layers": ", ".join(f"{count} {algorithm}" for algorithm, count in sorted(counts.items())),
        "exact": sum(layer.is_exact for layer in done.layers),
        "largest_error": round(worst, 6),
    }
    kept = [str(layer.target) for layer in done.layers if layer.rank == 0]
    if kept or done.adapter.biases:
        count = len(kept) + len(done.adapter.biases)
        say(f"{count} differences of norms and biases stay as they are: no LoRA can hold them")
    if version is None:
        print_fields({"file": str(out), **facts}, key="file", as_json=as_json, quiet=quiet)
    else:
        print_derived(version, facts, as_json=as_json, quiet=quiet)
