"""`adapterhub export`: write an adapter for another tool, or all of them as the folder that it reads."""

from pathlib import Path

import click

from adapterhub_cli.output import data_options, print_rows, progress, say, say_outcomes

FORMATS = ("kohya", "diffusers", "peft", "comfy", "a1111")
LAYOUTS = ("a1111", "comfy")


@click.command()
@click.argument("subject", metavar="[REF-or-FILE]", required=False)
@click.option(
    "--format", "format_name", type=click.Choice(FORMATS), help="Of one adapter; kohya if left out."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file; else a directory.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Of the factors.")
@click.option("--fold-alpha", is_flag=True, help="Multiply the scale into B, so that alpha = rank.")
@click.option("--strip", type=click.Choice(["training"]), help="Take out what tells of the training.")
@click.option("--all", "is_all", is_flag=True, help="Every adapter, as a folder.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="With --all: the tool that reads the folder.")
@click.option("--namespace", help="With --all: only adapters of this one.")
@click.option("--alias", help="With --all: the version at this alias, where there is one.")
@click.option("--dry-run", is_flag=True, help="With --all: only say what would happen.")
@data_options
def export(
    subject: str | None,
    format_name: str | None,
    out: Path,
    dtype: str | None,
    fold_alpha: bool,
    strip: str | None,
    is_all: bool,
    layout: str | None,
    namespace: str | None,
    alias: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write an adapter as a file for another tool; `kohya` is the format that every tool reads.

    With --all, write every adapter into a folder of AUTOMATIC1111's web UI (and Forge) or of ComfyUI, with
    triggers, notes and previews. Run it again at any time: only what changed is written, and no file that is
    not from an export is touched.

    \b
    Examples:
      adapterhub export me/ink@prod --out ink.safetensors
      adapterhub export me/ink --format diffusers --dtype float16 --out ink.safetensors
      adapterhub export me/ink --strip training --out public.safetensors
      adapterhub export --all --layout a1111 --out ~/webui/models/Lora/adapterhub --alias prod
    """
    of_one = {"REF": subject, "--format": format_name, "--dtype": dtype, "--strip": strip}
    of_all = {"--layout": layout, "--namespace": namespace, "--alias": alias}
    wrong = [name for name, value in (of_one if is_all else of_all).items() if value is not None]
    wrong += ["--fold-alpha"] * (is_all and fold_alpha) + ["--dry-run"] * (dry_run and not is_all)
    if wrong:
        raise click.UsageError(f"{', '.join(wrong)} {'cannot stand with' if is_all else 'needs'} --all")
    if is_all:
        if layout is None:
            raise click.UsageError("with --all, name the tool: --layout a1111 or --layout comfy")
        _export_all(out, layout, namespace, alias, dry_run, as_json, quiet)
        return
    if subject is None:
        raise click.UsageError("name a reference or a file, or --all")
    from adapterhub import derive

    for warning in derive.export(
        subject, out, format=format_name or "kohya", dtype=dtype, fold_alpha=fold_alpha, strip=strip
    ):
        say(f"note: {warning}")
    click.echo(str(out))


def _export_all(
    out: Path,
    layout: str,
    namespace: str | None,
    alias: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from adapterhub.layouts import export_all
    from adapterhub_registry.store import Registry

    found = list(
        export_all(
            Registry(),
            out,
            layout=layout,
            namespace=namespace,
            alias=alias,
            dry_run=dry_run,
            on_adapter=progress("exporting"),
        )
    )
    rows = [
        {
            "version": item.version,
            "file": str(item.path.relative_to(out)),
            "outcome": item.outcome,
            "reason": item.reason,
        }
        for item in found
    ]
    print_rows(rows, key="file", as_json=as_json, quiet=quiet)
    say_outcomes([item.outcome for item in found], none="no adapters there")
