"""`adapterhub retrain`: train a version again from its record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from adapterhub_cli.output import data_options, print_fields, say, training_progress


@click.command()
@click.argument("reference")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Put a value in place of the recorded one, such as steps=200 or base.device=cpu.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where its pictures are now, once for each folder that it had.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Print what would happen, and do nothing.")
@click.option("--resume", metavar="RUN", help="Go on from the run's checkpoint; latest finds it.")
@data_options
def retrain(
    reference: str,
    overrides: Sequence[str],
    data: Sequence[Path],
    only_plan: bool,
    resume: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train REF again from what is recorded of it; base and pictures must be those that it was made from.

    If its bytes come out again, nothing is published; otherwise it is the next version, retrained from REF.

    \b
    Examples:
      adapterhub retrain me/ink@3 --plan
      adapterhub retrain me/ink@3
      adapterhub retrain me/ink@3 --set steps=800 --set network.rank=8
      adapterhub retrain acme/ink --data ./ink
    """
    from adapterhub.training.retrain import plan_retrain
    from adapterhub.training.retrain import retrain as train_again
    from adapterhub_registry.store import Registry

    registry = Registry()
    asked: dict[str, Any] = {"overrides": overrides, "data": data, "resume": resume}
    if only_plan:
        plan = plan_retrain(reference, registry=registry, **asked)
        (item,) = plan.group.items
        fields = {
            "version": plan.version.reference,
            "next": f"{plan.version.name}@{item.next_number}",
            "pictures": len(item.dataset.examples),
            "steps": item.config.steps,
            "run": plan.group.run,
            "differences": list(plan.differences) if as_json else "; ".join(plan.differences) or "none",
        }
        print_fields(fields, key="version", as_json=as_json, quiet=quiet)
        return
    done = train_again(reference, registry=registry, on_progress=training_progress(), **asked)
    for difference in done.differences:
        say(difference)
    if done.is_same:
        say(f"the same bytes as {done.version.reference}: nothing published")
    fields = {
        "version": done.version.reference,
        "digest": done.version.digest,
        "same_bytes": done.is_same if as_json else "yes" if done.is_same else "no",
    }
    print_fields(fields, key="version", as_json=as_json, quiet=quiet)
