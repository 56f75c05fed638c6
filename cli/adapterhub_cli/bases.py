"""`adapterhub bases`: the frozen bases on this machine."""

from typing import Any

import click

from adapterhub_cli.output import data_options, print_fields, print_rows


@click.group()
def bases() -> None:
    """List the frozen bases on this machine, or show one."""


@bases.command("list")
@data_options
def list_command(as_json: bool, quiet: bool) -> None:
    """List the bundled base and the SDXL pipelines in the Hugging Face cache.

    \b
    Examples:
      adapterhub bases list
      adapterhub bases list --json
    """
    from adapterhub.bases.find import list_bases

    rows = [
        {
            "name": base.name,
            "architecture": base.architecture,
            "size": f"{base.size_bytes / 1e6:.1f} MB",
            "path": str(base.path),
        }
        for base in list_bases()
    ]
    print_rows(rows, key="name", as_json=as_json, quiet=quiet)


@bases.command("show")
@click.argument("name")
@data_options
def show_command(name: str, as_json: bool, quiet: bool) -> None:
    """Show what a base is: NAME is one of the list, a directory, a single file, or a hub id.

    The memory is that of the weights; pictures need room beside them.

    \b
    Examples:
      adapterhub bases show mini
      adapterhub bases show ./my-sdxl --json
      adapterhub bases show ~/models/checkpoints/my-sdxl.safetensors
    """
    from adapterhub.bases.find import find_base
    from adapterhub.bases.memory import BITS, memory_needed

    base = find_base(name)
    fields: dict[str, Any] = {
        "name": base.name,
        "architecture": base.architecture,
        "identity": base.identity,
        "size": f"{base.size_bytes / 1e6:.1f} MB",
        "path": str(base.path),
    }
    for dtype in BITS:
        fields[f"memory in {dtype}"] = f"{sum(memory_needed(base, dtype).values()) / 1e6:.1f} MB"
    for key in ("edition", "licence"):
        if key in base.card:
            fields[key] = base.card[key]
    for key in ("parameters", "figures"):
        for part, value in base.card.get(key, {}).items():
            fields[f"{part} {key}" if key == "parameters" else part] = value
    print_fields(fields, key="name", as_json=as_json, quiet=quiet)
