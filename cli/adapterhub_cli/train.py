"""`adapterhub train`: make adapters out of pictures."""

from pathlib import Path
from typing import Any

import click

from adapterhub_cli.output import data_options, print_rows, say, training_progress

NOTES_SHOWN = 10
"""Of what was done to the pictures of one adapter."""
KEYS = {
    "triggers": ("trigger_words",),
    "rank": ("network", "rank"),
    "learning_rate": ("optimizer", "learning_rate"),
}
"""Of the config, for the flags that are called otherwise there."""


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--base", help="Without a config: the base.")
@click.option("--data", type=click.Path(path_type=Path), help="Without a config: a folder of pictures.")
@click.option("--name", help="Without a config: namespace/name.")
@click.option("--trigger", "triggers", multiple=True, help="Without a config: a trigger word.")
@click.option("--kind", help="Without a config: style, subject, concept, slider or other.")
@click.option("--rank", type=int, help="Without a config: inner size of the update.")
@click.option("--steps", type=int, help="Without a config: optimizer steps.")
@click.option("--learning-rate", type=float, help="Without a config: at its highest.")
@click.option("--batch-size", type=int, help="Without a config: pictures a step.")
@click.option("--seed", type=int, help="Without a config: decides every random choice.")
@click.option("--save-every", type=int, help="Without a config: steps between checkpoints.")
@click.option("--plan", "only_plan", is_flag=True, help="Print what would happen, and do nothing.")
@click.option("--resume", metavar="RUN", help="Go on from a run's checkpoint; latest finds it.")
@data_options
def train(
    config: Path | None,
    base: str | None,
    data: Path | None,
    name: str | None,
    only_plan: bool,
    resume: str | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train the adapters of CONFIG, a TOML file, or one adapter from flags; each becomes a version.

    \b
    Examples:
      adapterhub train styles.toml --plan
      adapterhub train styles.toml --resume latest
      adapterhub train --base mini --data ./ink --name me/ink --trigger inkwash --rank 8
    """
    from adapterhub.training.train import plan
    from adapterhub.training.train import train as train_all
    from adapterhub_registry.store import Registry

    flags = {key: value for key, value in settings.items() if value not in (None, ())}
    wanted = _config(config, base, data, name, flags)
    registry = Registry()
    if only_plan:
        plans = plan(wanted, registry=registry, resume=resume)
        for item in plans:
            notes = item.dataset.notes
            for note in notes[:NOTES_SHOWN]:
                say(f"{item.config.name}: {note}")
            if len(notes) > NOTES_SHOWN:
                say(f"{item.config.name}: and {len(notes) - NOTES_SHOWN} more such notes")
        rows = [
            {
                "name": item.config.name,
                "version": item.next_number,
                "pictures": len(item.dataset.examples),
                "without_trigger": item.without_trigger,
                "steps": item.config.steps,
                "epochs": round(item.epochs, 1),
                "resumes_at": item.resumes_at,
                "run": item.run,
            }
            for item in plans
        ]
        print_rows(rows, key="run", as_json=as_json, quiet=quiet)
        return
    known = {v.digest for adapter in wanted.adapters for v in registry.known_versions(adapter.name)}
    versions = train_all(wanted, registry=registry, resume=resume, on_progress=training_progress())
    for version in versions:
        if version.digest in known:
            say(f"nothing changed: the same weights are there already as {version.reference}")
    rows = [{"version": version.reference, "digest": version.digest} for version in versions]
    print_rows(rows, key="version", as_json=as_json, quiet=quiet)


def _config(
    config: Path | None, base: str | None, data: Path | None, name: str | None, flags: dict[str, Any]
) -> Any:
    """Return the config of the file, or of the flags; both at once is wrong usage."""
    from adapterhub.training.config import TrainConfig

    named = {"--base": base, "--data": data, "--name": name, **flags}
    given = [flag for flag, value in named.items() if value is not None]
    if config is not None:
        if given:
            raise click.UsageError(f"with a config file, say {', '.join(given)} in the file")
        return TrainConfig.from_toml(config)
    if base is None or data is None or name is None:
        raise click.UsageError("name a config file, or --base, --data and --name")
    adapter: dict[str, Any] = {"name": name, "data": data}
    places: dict[tuple[str | int, ...], str] = {}
    for flag, value in {"name": name, "data": data, **flags}.items():
        *tables, key = KEYS.get(flag, (flag,))
        table = adapter
        for inner in tables:
            table = table.setdefault(inner, {})
        table[key] = value
        places["adapters", 0, *tables, key] = (
            f"--{flag.removesuffix('s')}" if flag == "triggers" else f"--{flag.replace('_', '-')}"
        )
    return TrainConfig.from_table(
        {"base": base, "adapters": [adapter]}, source="the flags", folder=Path(), places=places
    )
