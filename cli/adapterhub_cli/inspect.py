"""`adapterhub inspect`: what a file of weights is, from its header."""

from pathlib import Path
from typing import Any

import click

from adapterhub_cli.output import data_options, print_fields


@click.command()
@click.argument("subject", metavar="REF-or-FILE")
@data_options
def inspect(subject: str, as_json: bool, quiet: bool) -> None:
    """Say what a file of weights is, or the file of a version: layout, algorithm, ranks, architecture.

    \b
    Examples:
      adapterhub inspect ink.safetensors
      adapterhub inspect me/ink@prod
    """
    from adapterhub_registry.intake import read_payload
    from adapterhub_registry.probe import probe
    from adapterhub_registry.store import Registry

    path = Path(subject)
    if not path.exists() and "/" in subject and not subject.endswith(".safetensors"):
        registry = Registry()
        version = registry.resolve(subject)
        directory = registry.directory(version)
        path = directory / version.files[0].path if len(version.files) == 1 else directory
    files = read_payload(path).files
    weights = next(file for name, file in files.items() if name.endswith(".safetensors"))
    found = probe(weights)
    fields: dict[str, Any] = {
        "file": str(weights),
        "layout": ", ".join(found.layouts),
        "algorithm": found.algorithm,
        "architecture": found.architecture or "unknown",
        "components": ", ".join(found.components),
        "modules": found.modules,
        "ranks": list(found.ranks) if as_json else ", ".join(map(str, found.ranks)),
        "dtypes": ", ".join(found.dtypes),
        "parameters": found.parameters,
        "unknown_keys": len(found.unknown),
    }
    print_fields(fields, key="algorithm", as_json=as_json, quiet=quiet)
