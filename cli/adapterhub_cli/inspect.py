"""`adapterhub inspect`: what a file of weights is, and what it does."""

import shutil
from pathlib import Path
from typing import Any

import click

from adapterhub_cli.output import data_options, print_fields, say


@click.command()
@click.argument("subject", metavar="REF-or-FILE")
@click.option("--header", "only_header", is_flag=True, help="Look at the header alone; no weights are read.")
@click.option("--base", help="The base: for norms relative to its weights, and for DoRA, OFT and the like.")
@click.option("--heat-map", type=click.Path(path_type=Path), help="Draw where it acts as a PNG.")
@data_options
def inspect(
    subject: str, only_header: bool, base: str | None, heat_map: Path | None, as_json: bool, quiet: bool
) -> int:
    """Say what a file of weights is, or the file of a version, and measure what it does.

    Exit code 1 if the weights are not fit for use: not finite, for example.

    \b
    Examples:
      adapterhub inspect ink.safetensors --header
      adapterhub inspect me/ink@prod --heat-map ink.png
    """
    from adapterhub_registry.hashes import hash_file
    from adapterhub_registry.intake import read_payload
    from adapterhub_registry.probe import probe, read_peft_config
    from adapterhub_registry.store import Registry

    path = Path(subject)
    if not path.exists() and "/" in subject and not subject.endswith(".safetensors"):
        registry = Registry()
        path = registry.payload(registry.resolve(subject))
    files = read_payload(path).files
    weights = next(file for name, file in files.items() if name.endswith(".safetensors"))
    config = files.get("adapter_config.json")
    found = probe(weights, config=None if config is None else read_peft_config(config))
    hashes = hash_file(weights)
    fields: dict[str, Any] = {
        "file": str(weights),
        "layout": ", ".join(found.layouts),
        "algorithm": found.algorithm,
        "architecture": found.architecture or "unknown",
        "evidence": list(found.evidence) if as_json else "; ".join(found.evidence),
        "components": ", ".join(found.components),
        "modules": found.modules,
        "ranks": list(found.ranks) if as_json else ", ".join(map(str, found.ranks)),
        "dtypes": ", ".join(found.dtypes),
        "parameters": found.parameters,
        "extra_keys": len(found.extras),
        "unknown_keys": len(found.unknown),
        "sha256": hashes.sha256,
        "autov2": hashes.autov2,
        "autov3": hashes.autov3,
    }
    if only_header or quiet:
        print_fields(fields, key="algorithm", as_json=as_json, quiet=quiet)
        return 0
    from adapterhub import derive
    from adapterhub.lora import charts
    from adapterhub.sheet import save_picture

    report = derive.inspect(str(path), base=base)
    if heat_map is not None:
        save_picture(charts.heat_map(report), heat_map)
        say(f"look at {heat_map}")
    if as_json:
        print_fields(fields | {"measured": report.as_json()}, key="algorithm", as_json=True)
    else:
        fields["norm"] = f"{report.overall.norm:.4f}"
        if report.advice is not None:
            advice = report.advice
            fields["resize"] = (
                f"rank {advice.rank} keeps {advice.energy:.1%} in {advice.size_bytes / 1e6:.1f} MB"
            )
        print_fields(fields, key="algorithm")
        click.echo()
        for line in charts.bars(report, shutil.get_terminal_size().columns):
            click.echo(line)
    for problem in report.problems:
        say(f"{problem.severity}: {problem.message}")
    return int(any(problem.severity == "error" for problem in report.problems))
