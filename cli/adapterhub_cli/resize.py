"""`adapterhub resize`: make an adapter of lower rank."""

from typing import Any

import click

from adapterhub_cli.output import data_options, print_derived


@click.command()
@click.argument("subject", metavar="REF-or-FILE")
@click.option("--name", required=True, help="namespace/name of the result.")
@click.option("--rank", type=int, help="The largest rank of a layer.")
@click.option("--ratio", type=float, help="Keep singular values of at least the largest divided by this.")
@click.option("--frobenius", type=float, help="Keep this part of the norm of each layer.")
@click.option("--energy", type=float, help="Keep this part of the squared norm of each layer.")
@click.option("--base", help="The base, where neither parent nor weights tell.")
@click.option("-m", "--message", default="", help="What to say of the version.")
@data_options
def resize(
    subject: str,
    name: str,
    rank: int | None,
    ratio: float | None,
    frobenius: float | None,
    energy: float | None,
    base: str | None,
    message: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a version of lower rank, the nearest one that there is.

    \b
    Examples:
      adapterhub resize me/ink --rank 8 --name me/ink-small
      adapterhub resize me/ink --energy 0.99 --name me/ink-small
    """
    from adapterhub import derive

    settings: dict[str, Any] = {"rank": rank, "ratio": ratio, "frobenius": frobenius, "energy": energy}
    given = {key: value for key, value in settings.items() if value is not None}
    version = derive.resize(subject, name=name, base=base, message=message, **given)
    facts = {"energy_kept": float(version.lineage["energy_kept"])}
    print_derived(version, facts, as_json=as_json, quiet=quiet)
