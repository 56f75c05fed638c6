"""`adapterhub quickstart`: the whole loop on the mini base."""

from pathlib import Path

import click

from adapterhub_cli.output import data_options, print_rows, progress, say, training_progress


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("quickstart"), show_default=True)
@click.option("--again", is_flag=True, help="Replace what an earlier run left there.")
@data_options
def quickstart(out: Path, again: bool, as_json: bool, quiet: bool) -> None:
    """Train a style and a subject, push and pull them, compose them, and draw a contact sheet.

    Everything lies below --out; your own registry is not touched. It takes a few minutes on two cores.

    \b
    Examples:
      adapterhub quickstart
      adapterhub quickstart --out /tmp/look --again
    """
    from adapterhub.quickstart.loop import run_quickstart

    result = run_quickstart(
        out, again=again, on_stage=say, on_training=training_progress(), on_step=progress("generate")
    )
    rows = [
        {
            "trained": item.version.reference,
            "kind": item.kind,
            "digest": item.version.digest if as_json else item.version.digest[:19],
            "seconds": round(item.seconds),
        }
        for item in result.trained
    ]
    print_rows(rows, key="trained", as_json=as_json, quiet=quiet)
    say(f"done in {result.seconds:.0f} s. Go on with: ADAPTERHUB_HOME={result.home} adapterhub list")
    say(f"look at {result.sheet}")
