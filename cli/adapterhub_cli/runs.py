"""`adapterhub runs`: trainings that go on, and those that have ended."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from adapterhub_cli.output import data_options, efficiency_text, print_fields, print_rows, say

SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE = 24
"""Letters of a loss curve."""
AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def sparkline(values: list[float], width: int = SPARKLINE) -> str:
    """Return a curve in one line of text, from its lowest to its highest value.

    Example:
        >>> sparkline([3.0, 2.0, 1.0])
        '█▅▁'
    """
    if len(values) > width:
        edges = [number * len(values) // width for number in range(width + 1)]
        parts = [values[start:stop] for start, stop in pairwise(edges)]
        values = [sum(part) / len(part) for part in parts]
    low, high = min(values, default=0.0), max(values, default=0.0)
    top = len(SPARKS) - 1
    return "".join(SPARKS[round(top * (value - low) / ((high - low) or 1.0))] for value in values)


def age_text(seconds: float) -> str:
    """Return how long ago something was, in its largest unit.

    Example:
        >>> age_text(7500)
        '2 h'
    """
    size, unit = next(((size, unit) for size, unit in AGES if seconds >= size), AGES[-1])
    return f"{max(int(seconds // size), 0)} {unit}"


@click.group(invoke_without_command=True)
@data_options
@click.pass_context
def runs(context: click.Context, as_json: bool, quiet: bool) -> None:
    """List trainings, the last one first: how far each adapter is, and how its loss goes.

    A run is running, done, failed, or stopped: by a signal, or because its process died; `train --resume RUN`
    goes on with it.

    \b
    Examples:
      adapterhub runs
      adapterhub runs --json
      adapterhub runs show me--ink-1f0c7a2b9d3e
      adapterhub runs remove me--ink-1f0c7a2b9d3e
    """
    if context.invoked_subcommand is not None:
        return
    from adapterhub.training.runs import find_runs, run_directory
    from adapterhub_registry.store import Registry

    home = Registry().home
    found = find_runs(home)
    if quiet:
        print_rows([{"run": status.run} for status in found], key="run", quiet=True)
        return
    rows = [
        _row(status, adapter, run_directory(home, status.run), as_json=as_json)
        for status in found
        for adapter in status.adapters
    ]
    if not as_json and not any(row["scores"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "scores"} for row in rows]
    print_rows(rows, key="run", as_json=as_json)


@runs.command("show")
@click.argument("run")
@data_options
def show_command(run: str, as_json: bool, quiet: bool) -> None:
    """Say all there is to say of RUN and of each of its adapters.

    \b
    Examples:
      adapterhub runs show me--ink-1f0c7a2b9d3e
    """
    from adapterhub.training.efficiency import Efficiency
    from adapterhub.training.runs import find_run, run_directory
    from adapterhub_registry.store import Registry

    home = Registry().home
    status = find_run(home, run)
    directory = run_directory(home, run)
    adapters = [_fields(status, adapter, directory) for adapter in status.adapters]
    fields = {
        "run": status.run,
        "state": status.state,
        "began": _time(status.began),
        "updated": _time(status.updated),
        "directory": str(directory),
        "error": status.error,
    }
    if as_json:
        print_fields({**fields, "adapters": adapters}, key="run", as_json=True)
        return
    print_fields({name: value for name, value in fields.items() if value}, key="run", quiet=quiet)
    if quiet:
        return
    for adapter, shown in zip(status.adapters, adapters, strict=True):
        click.echo()
        shown["step"] = f"{shown['step']}/{shown.pop('steps')}"
        shown["curve"] = sparkline([loss for _, loss in adapter.curve])
        shown["validation_loss"] = ", ".join(
            f"{loss:.4f} at step {step}" if step else f"{loss:.4f} of the base"
            for step, loss in shown["validation_loss"]
        )
        shown["efficiency"] = efficiency_text(Efficiency(**adapter.efficiency)) if adapter.efficiency else ""
        for name, points in shown.pop("scores").items():
            shown[_score_name(name)] = ", ".join(
                f"{value:.4f} at step {step}" if step else f"{value:.4f} of the base"
                for step, value in points
            )
        shown["notes"] = "; ".join(shown["notes"])
        shown["values"] = ", ".join(f"{key} = {value}" for key, value in adapter.values.items())
        shown.pop("seconds_left")
        print_fields({name: value for name, value in shown.items() if value}, key="name")


@runs.command("remove")
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove_command(run: str, yes: bool) -> None:
    """Delete the files of RUN: checkpoints, samples and reports. The versions that it made stay.

    \b
    Examples:
      adapterhub runs remove me--ink-1f0c7a2b9d3e --yes
    """
    from adapterhub.training.runs import find_run, remove_run, run_directory
    from adapterhub_registry.store import Registry

    home = Registry().home
    find_run(home, run)
    if not yes:
        click.confirm(f"delete {run_directory(home, run)}?", abort=True, err=True)
    remove_run(home, run)
    say(f"deleted the run {run}")


def _row(status: Any, adapter: Any, directory: Path, *, as_json: bool) -> dict[str, Any]:
    if as_json:
        shown = _fields(status, adapter, directory)
        curve = [loss for _, loss in adapter.curve]
        age = round(time.time() - status.updated, 1)
        return {"run": status.run, **shown, "curve": curve, "age_s": age}
    return {
        "run": status.run,
        "name": adapter.label,
        "state": _state(status, adapter),
        "step": f"{adapter.step}/{adapter.steps}",
        "loss": f"{adapter.loss:.4f}" if adapter.step else "",
        "curve": sparkline([loss for _, loss in adapter.curve]),
        "scores": ", ".join(
            f"{_score_name(name)} {value:.3f}" for name, value in adapter.last_scores.items()
        ),
        "samples": str(directory / adapter.samples) if adapter.samples else "",
        "age": age_text(time.time() - status.updated),
    }


def _fields(status: Any, adapter: Any, directory: Path) -> dict[str, Any]:
    return {
        "name": adapter.name,
        "state": _state(status, adapter),
        "step": adapter.step,
        "steps": adapter.steps,
        "loss": round(adapter.loss, 6),
        "validation_loss": adapter.measured,
        "best_step": adapter.best_step,
        "scores": adapter.scores,
        "seconds_left": round(adapter.seconds_left, 1),
        "samples": str(directory / adapter.samples) if adapter.samples else "",
        "report": str(directory / adapter.report) if adapter.report else "",
        "version": f"{adapter.name}@{adapter.version}" if adapter.version else "",
        "error": adapter.error,
        "efficiency": adapter.efficiency,
        "notes": list(adapter.notes),
        **({"candidate": adapter.candidate, "values": adapter.values} if adapter.candidate else {}),
    }


def _score_name(name: str) -> str:
    return name.replace("_", "-").upper()


def _state(status: Any, adapter: Any) -> str:
    """Return the state of one adapter: it can end before its run does."""
    if adapter.version:
        return "done"
    return "failed" if adapter.error else adapter.outcome or status.state


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
