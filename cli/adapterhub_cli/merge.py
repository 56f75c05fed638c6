"""`adapterhub merge`: make one adapter out of several."""

from typing import Any

import click

from adapterhub_cli.output import data_options, print_derived

METHODS = (
    *("cat", "svd", "slerp", "model_stock", "orthogonal", "tsv", "iso_c"),
    *("knots", "ties", "dare_linear", "dare_ties", "magnitude_prune"),
)


@click.command()
@click.argument("adapters", metavar="REF-or-FILE[:WEIGHT]...", nargs=-1, required=True)
@click.option("--name", required=True, help="namespace/name of the result.")
@click.option("--method", type=click.Choice(METHODS), default="cat", show_default=True)
@click.option("--rank", type=int, help="Cut every layer to this rank.")
@click.option("--energy", type=float, help="Cut to the least rank that keeps this part of the squared norm.")
@click.option("--density", type=float, help="What ties, magnitude_prune and knots keep of the entries.")
@click.option("--drop", type=float, help="The chance of dare to drop an entry.")
@click.option("--t", type=float, help="Where on the arc slerp stops, 0 to 1.")
@click.option("--space", type=click.Choice(["full", "core", "knots"]), help="Where entries are looked at.")
@click.option("--normalize", help="Scale to the norm of the `first`, to the `mean`, or to a number.")
@click.option("--block-weights", multiple=True, help="Weights by block, once for each adapter in its order.")
@click.option(
    "--targets", multiple=True, help="Only these: a component, a block, or a glob; repeat for more."
)
@click.option("--seed", type=int, help="Of dare's masks.")
@click.option("--base", help="The base, where neither parent nor weights tell.")
@click.option("-m", "--message", default="", help="What to say of the version.")
@data_options
def merge(
    adapters: tuple[str, ...],
    name: str,
    method: str,
    normalize: str | None,
    block_weights: tuple[str, ...],
    targets: tuple[str, ...],
    base: str | None,
    message: str,
    as_json: bool,
    quiet: bool,
    **numbers: Any,
) -> None:
    """Merge ADAPTERS into a new version; `cat`, the weighted sum, is exact.

    \b
    Examples:
      adapterhub merge me/ink:0.7 me/corgi:0.3 --name me/wash
      adapterhub merge me/ink me/corgi --method svd --rank 16 --name me/wash
      adapterhub merge me/ink me/corgi:-0.5 --method ties --density 0.3 --name me/odd
      adapterhub merge me/ink --block-weights "1,0,0,0,0,0,1,1,1,0,0,0" --name me/ink-late
    """
    from adapterhub import derive

    settings = {key: value for key, value in numbers.items() if value is not None}
    if normalize is not None:
        settings["normalize"] = _number(normalize)
    if block_weights:
        settings["block_weights"] = list(block_weights)
    if targets:
        settings["targets"] = list(targets)
    version = derive.merge(adapters, name=name, method=method, base=base, message=message, **settings)
    facts = {"method": method, "energy_kept": float(version.lineage["energy_kept"])}
    print_derived(version, facts, as_json=as_json, quiet=quiet)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
