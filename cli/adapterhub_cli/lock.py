"""`adapterhub lock`: write down the very versions of a composition."""

from pathlib import Path

import click

from adapterhub_cli.output import LOCK_FILE, data_options, print_rows


@click.command()
@click.argument("terms", metavar="REF[:WEIGHT]...", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path(LOCK_FILE), show_default=True)
@data_options
def lock(terms: tuple[str, ...], out: Path, as_json: bool, quiet: bool) -> None:
    """Write a lock file: numbers, digests and weights, whatever aliases point at later.

    \b
    Examples:
      adapterhub lock me/ink@prod:0.8 me/corgi
      adapterhub pull --locked --from team
      adapterhub generate -p "a corgi" --locked
    """
    from adapterhub.runtime.composition import Composition
    from adapterhub_registry.files import write_atomically
    from adapterhub_registry.lockfile import make_lock
    from adapterhub_registry.store import Registry

    registry = Registry()
    composition = Composition.parse(" + ".join(terms))
    for term in composition.terms:
        if term.blocks:
            from adapterhub.lora.blocks import parse_block_weights  # it imports torch

            parse_block_weights(term.blocks)
    versions = [(registry.resolve(term.reference), term) for term in composition.terms]
    made = make_lock([(v.name, v.number, v.digest, term.weight, term.blocks) for v, term in versions])
    write_atomically(out, made.to_json().encode())
    rows = [
        {
            "version": f"{adapter.name}@{adapter.number}",
            "weight": adapter.weight,
            "digest": adapter.digest if as_json else adapter.digest[:19],
        }
        for adapter in made.adapters
    ]
    print_rows(rows, key="version", as_json=as_json, quiet=quiet)
