"""`adapterhub compare`: how adapters relate."""

import json
from pathlib import Path

import click

from adapterhub_cli.output import print_rows, say


@click.command()
@click.argument("adapters", metavar="REF-or-FILE...", nargs=-1, required=True)
@click.option("--matrix", type=click.Path(path_type=Path), help="Draw the cosines as a PNG.")
@click.option("--no-overlaps", is_flag=True, help="Leave out the overlaps of subspaces, which take longest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with everything that was measured.")
def compare(adapters: tuple[str, ...], matrix: Path | None, no_overlaps: bool, as_json: bool) -> None:
    """Compare ADAPTERS: norms, cosines, overlaps, opposite signs, and weights to compose them with.

    \b
    Examples:
      adapterhub compare me/ink me/corgi me/wash
      adapterhub compare *.safetensors --matrix matrix.png --json
    """
    from adapterhub import derive
    from adapterhub.lora.charts import matrix as draw
    from adapterhub.sheet import save_picture

    if len(adapters) < 2:
        raise click.UsageError("name at least two adapters")
    found = derive.compare(*adapters, overlaps=not no_overlaps)
    if matrix is not None:
        save_picture(draw(found), matrix)
        say(f"look at {matrix}")
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    weights, cosines = found.weights, found.cosines
    rows = [
        {
            "adapter": name,
            "norm": f"{float(found.norms[row]):.3f}",
            "weight": f"{weights[name]:.2f}",
            **{
                f"cos {column + 1}": f"{float(cosines[row, column]):+.3f}"
                for column in range(len(found.names))
            },
        }
        for row, name in enumerate(found.names)
    ]
    print_rows(rows, key="adapter")
    for first, second in found.duplicates:
        say(f"{first} and {second} are the same adapter, or one is a resize of the other")
    say(f"composed with these weights their norm is {found.predicted_norm(weights):.3f}")
