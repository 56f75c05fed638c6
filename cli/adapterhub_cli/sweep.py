"""`adapterhub sweep`: try values of a config's fields, and keep the best."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from adapterhub_cli.output import data_options, print_rows, say, training_progress


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Put a value in place of the config's, or a list below sweep.grid.",
)
@click.option("--keep", type=int, help="Register so many of each adapter; 0 is all.  [default: 1]")
@click.option("--plan", "only_plan", is_flag=True, help="Print what would be tried, and do nothing.")
@click.option("--resume", metavar="RUN", help="Go on from the run's checkpoint; latest finds it.")
@data_options
def sweep(
    config: Path,
    overrides: Sequence[str],
    keep: int | None,
    only_plan: bool,
    resume: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train every combination of the values below [sweep.grid] in CONFIG together, and register the best.

    All see the same pictures, noise and timesteps. Those whose loss on held-out pictures is worse stop early.

    \b
    Examples:
      adapterhub sweep ink.toml --plan
      adapterhub sweep ink.toml --set "sweep.grid.network.rank=[4, 8, 16, 32]"
      adapterhub sweep ink.toml --keep 2
      adapterhub sweep ink.toml --resume latest
    """
    from adapterhub.training.sweep import plan_sweep
    from adapterhub.training.sweep import sweep as try_all
    from adapterhub.training.sweep_config import SweepConfig
    from adapterhub_registry.store import Registry

    kept = [] if keep is None else [f"sweep.keep={keep}"]
    wanted = SweepConfig.from_toml(config, overrides=[*overrides, *kept])
    registry = Registry()
    if only_plan:
        group = plan_sweep(wanted, registry=registry, resume=resume)
        rows = [_plan_row(item, wanted, as_json=as_json) for item in group.items]
        print_rows(rows, key="candidate", as_json=as_json, quiet=quiet)
        most, whole = wanted.steps
        say(f"{len(rows)} candidates, at most {most} steps of {whole}; the run would be {group.run}")
        return
    result = try_all(wanted, registry=registry, resume=resume, on_progress=training_progress())
    if quiet:
        print_rows([{"version": one.reference} for one in result.versions], key="version", quiet=True)
        return
    rows = [_row(one, as_json=as_json) for one in result.outcomes]
    print_rows(rows, key="candidate", as_json=as_json)
    if result.sheet is not None:
        say(f"the contact sheet: {result.sheet}")
    else:
        say("there is no contact sheet: the config has no validation.prompts, or tries several")
    say(f"the report: {result.report}")


def _plan_row(item: Any, wanted: Any, *, as_json: bool) -> dict[str, Any]:
    parts = wanted.rules.parts(len(wanted.of(item.config.name)))
    stops = item.candidate.stops(parts)
    shown = {"steps": item.config.steps, "compared_at": stops if as_json else ", ".join(map(str, stops))}
    return {"candidate": item.label, **_values(item.candidate.values, as_json=as_json), **shown}


def _row(outcome: Any, *, as_json: bool) -> dict[str, Any]:
    version = outcome.version.reference if outcome.version else ""
    row = {"candidate": outcome.label, **_values(outcome.values, as_json=as_json)}
    if as_json:
        more = {"validation_loss": outcome.loss, "step": outcome.step, "steps": outcome.steps}
        return {**row, **more, "state": outcome.state, "version": version, "error": outcome.error}
    return {
        **row,
        "validation_loss": "" if outcome.loss is None else f"{outcome.loss:.5f}",
        "step": f"{outcome.step}/{outcome.steps}",
        "state": outcome.state,
        "version": version,
    }


def _values(values: Any, *, as_json: bool) -> dict[str, Any]:
    from adapterhub.training.sweep_report import short_names

    if as_json:
        return {"values": dict(values)}
    names = short_names([*values])
    return {names[key]: value for key, value in values.items()}
