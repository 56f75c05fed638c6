"""`adapterhub adopt`: take a whole LoRA folder of another tool."""

from pathlib import Path

import click

from adapterhub_cli.output import data_options, print_rows, progress, say, say_outcomes


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--namespace", default="local", show_default=True, help="Of the new names.")
@click.option("--base", help="The base that all were made on, where their shapes do not tell.")
@click.option("--link", is_flag=True, help="Keep hard links to the files, not copies.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@data_options
def adopt(
    folder: Path, namespace: str, base: str | None, link: bool, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Take every LoRA below FOLDER, of A1111, Forge, ComfyUI or kohya, with triggers, notes and previews.

    The folder is only read. Run it again at any time: what is known is not read twice. Hard links take no
    room, but a tool that changes a file in place changes the version too; `verify` finds that, and
    `verify --repair` makes the versions independent.

    \b
    Examples:
      adapterhub adopt ~/webui/models/Lora --namespace me --dry-run
      adapterhub adopt ~/webui/models/Lora --namespace me --link
    """
    from adapterhub_registry.adoption import adopt as adopt_folder
    from adapterhub_registry.store import Registry

    found = list(
        adopt_folder(
            Registry(),
            folder,
            namespace=namespace,
            base=base,
            link=link,
            dry_run=dry_run,
            on_file=progress("adopting"),
        )
    )
    rows = [
        {
            "file": str(item.path.relative_to(folder)),
            "outcome": item.outcome,
            "version": item.version,
            "reason": item.reason,
        }
        for item in found
    ]
    print_rows(rows, key="version", as_json=as_json, quiet=quiet)
    linked = sum(item.is_linked for item in found)
    if linked:
        say(f"{linked} linked, not copied: who changes these files in place changes the versions too")
    say_outcomes([item.outcome for item in found], none="no LoRA files there")
