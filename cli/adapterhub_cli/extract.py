"""`adapterhub extract`: take an adapter out of a tuned checkpoint."""

from pathlib import Path

import click

from adapterhub_cli.output import data_options, print_derived


@click.command()
@click.argument("tuned", type=click.Path(path_type=Path))
@click.option("--base", required=True, help="What it was tuned from.")
@click.option("--name", required=True, help="namespace/name of the result.")
@click.option("--rank", type=int, default=32, show_default=True, help="The largest rank of a layer.")
@click.option("--energy", type=float, help="Cut further, to what keeps this part of the squared norm.")
@click.option("--exact", is_flag=True, help="Decompose whole differences; slower, a thousandth better.")
@click.option("--norms", is_flag=True, help="Keep differences of norms whole.")
@click.option("-m", "--message", default="", help="What to say of the version.")
@data_options
def extract(
    tuned: Path,
    base: str,
    name: str,
    rank: int,
    energy: float | None,
    exact: bool,
    norms: bool,
    message: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make an adapter of what the checkpoint TUNED has learnt on top of a base.

    \b
    Examples:
      adapterhub extract ./tuned --base mini --rank 16 --name me/learnt
      adapterhub extract tuned.safetensors --base base.safetensors --name me/learnt
    """
    from adapterhub import derive

    version, found = derive.extract(
        base, tuned, name=name, rank=rank, energy=energy, exact=exact, norms=norms, message=message
    )
    total = sum(layer.norm**2 for layer in found.layers)
    lost = sum((layer.norm * layer.error) ** 2 for layer in found.layers)
    facts = {
        "layers": len(found.layers),
        "unchanged": len(found.unchanged),
        "energy_kept": round(1 - lost / total, 4),
    }
    print_derived(version, facts, as_json=as_json, quiet=quiet)
