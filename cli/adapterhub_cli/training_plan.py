"""What `train --plan` prints: each adapter's data and cost, what its run needs, and what to look at."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import click

from adapterhub_cli.output import print_fields, print_rows, say, time_text


def print_plan(config: Any, registry: Any, *, resume: str | None, as_json: bool, quiet: bool) -> None:
    """Print what a training would be; of data that cannot be trained on, every problem.

    Args:
        config: A `TrainConfig`.
        registry: Where it would be registered.
        resume: A run to go on from, or `latest`.
        as_json: Print an array, an object for each adapter.
        quiet: Print the names of the runs alone.
    """
    from adapterhub.errors import DatasetError
    from adapterhub.training.outlook import look_ahead

    try:
        outlooks = look_ahead(config, registry=registry, resume=resume)
    except DatasetError as exc:
        say(f"error: {exc.folder} cannot be trained on, {len(exc.problems)} problems:")
        for problem in exc.problems:
            say(f"  {problem}")
        click.get_current_context().exit(1)
    for outlook in outlooks:
        name = outlook.plan.config.name
        for note in outlook.plan.dataset.notes:
            say(f"{name}: {note}")
        for warning in outlook.warnings:
            say(f"{name}: warning: {warning}")
    if as_json or quiet:
        print_rows([_row(outlook) for outlook in outlooks], key="run", as_json=as_json, quiet=quiet)
        return
    for outlook in outlooks:
        print_fields(_fields(outlook), key="name")
        click.echo()
    forecasts = {outlook.forecast.run: outlook.forecast for outlook in outlooks}
    for forecast in forecasts.values():
        print_fields(_needs(forecast), key="run")


def _row(outlook: Any) -> dict[str, Any]:
    item, forecast = outlook.plan, outlook.forecast
    dataset = item.dataset
    return {
        "name": item.config.name,
        "version": item.next_number,
        "pictures": len(dataset.examples),
        "held_out": [example.name for example in dataset.held_out],
        "buckets": [{"size": list(size), "pictures": count} for size, count in dataset.buckets.items()],
        "captions": [asdict(length) for length in outlook.lengths],
        "truncated": [length.picture for length in outlook.truncated],
        "without_trigger": item.without_trigger,
        "steps": item.config.steps,
        "epochs": round(item.epochs, 1),
        "resumes_at": item.resumes_at,
        "run": item.run,
        "efficiency": asdict(forecast.efficiency[item.config.name]),
        "notes": list(dataset.notes),
        "warnings": list(outlook.warnings),
        "run_needs": {
            "adapters_at_a_time": forecast.adapters,
            "peak_bytes": forecast.peak_bytes,
            "peak_while": forecast.phase,
            "memory": dict(forecast.memory),
            "free_bytes": forecast.free_bytes,
            "seconds": round(forecast.seconds, 1),
            "pass_flops": forecast.flops,
        },
    }


def _fields(outlook: Any) -> dict[str, Any]:
    item, config = outlook.plan, outlook.plan.config
    dataset = item.dataset
    priors = sum(example.source.is_prior for example in dataset.examples)
    pictures = [f"{len(dataset.examples) - priors} to learn from"]
    pictures += [f"{priors} that keep a class"] if priors else []
    pictures += [f"{len(dataset.held_out)} held out"] if dataset.held_out else []
    fields = {
        "name": config.name,
        "version": f"{item.next_number}, if its weights are new",
        "pictures": ", ".join(pictures),
        "buckets": ", ".join(f"{w} x {h}: {count}" for (w, h), count in dataset.buckets.items()),
        "held_out": ", ".join(example.name for example in dataset.held_out),
        "captions": _captions([length.tokens for length in outlook.lengths], len(outlook.truncated)),
        "steps": f"{config.steps} of {config.batch_size * config.accumulation} pictures at most",
        "epochs": f"{item.epochs:.1f}",
        "resumes_at": f"step {item.resumes_at}" if item.resumes_at else "",
    }
    fields |= {what: f"{own} of {full} ({share})" for what, own, full, share in _cost(outlook)}
    return {name: value for name, value in fields.items() if value}


def _cost(outlook: Any) -> Sequence[tuple[str, str, str, str]]:
    return outlook.forecast.efficiency[outlook.plan.config.name].rows()


def _captions(tokens: Sequence[int], truncated: int) -> str:
    said = f"{min(tokens)} to {max(tokens)} tokens, {median(tokens):g} in the middle"
    return f"{said}; {truncated} cut" if truncated else f"{said}; none cut"


def _needs(forecast: Any) -> dict[str, str]:
    from adapterhub.training.efficiency import size_text

    parts = ", ".join(f"{part} {size_text(size)}" for part, size in forecast.memory.items() if size)
    return {
        "run": forecast.run,
        "together": f"{forecast.adapters} at a time",
        "memory": f"about {size_text(forecast.peak_bytes)} while {forecast.phase}: {parts}",
        "free": size_text(forecast.free_bytes),
        "time": f"about {time_text(forecast.seconds)}, without measuring and drawing",
    }
