"""`adapterhub train`: make adapters out of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from adapterhub_cli.output import data_options, print_rows, say, training_progress
from adapterhub_cli.training_plan import print_plan

KEYS = {"triggers": "trigger_words", "rank": "network.rank", "learning_rate": "optimizer.learning_rate"}
"""Of an adapter's config, for the flags that are called otherwise there."""
STARTER_FLAGS = ("base", "name", "triggers", "kind")


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
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Put a value in place of the config's. Adapters go by name or by number from 0.",
)
@click.option(
    "--init",
    "pictures",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a config for a folder of pictures to begin with, to CONFIG or here, and do nothing else.",
)
@click.option(
    "--plan", "only_plan", is_flag=True, help="Read everything, print what would happen, and train nothing."
)
@click.option("--resume", metavar="RUN", help="Go on from a run's checkpoint; latest finds it.")
@data_options
def train(
    config: Path | None,
    overrides: Sequence[str],
    pictures: Path | None,
    only_plan: bool,
    resume: str | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train the adapters of CONFIG, a TOML file, or one adapter from flags; each becomes a version.

    \b
    Examples:
      adapterhub train --init ./ink
      adapterhub train ink.toml --plan
      adapterhub train styles.toml --resume latest
      adapterhub train styles.toml --set defaults.network.rank=8 --set adapters.me/ink.steps=100
      adapterhub train --base mini --data ./ink --name me/ink --trigger inkwash --rank 8
    """
    flags = {flag: value for flag, value in settings.items() if value not in (None, ())}
    if pictures is not None:
        if overrides or only_plan or resume is not None:
            raise click.UsageError("--init writes a config; plan or train with it afterwards")
        _write_starter(pictures, config, flags, as_json=as_json, quiet=quiet)
        return

    from adapterhub.settings import Launch
    from adapterhub.training.train import train as train_all
    from adapterhub_registry.store import Registry

    wanted = _config(config, flags, overrides)
    registry = Registry()
    is_main = Launch.from_environment().is_main  # of several processes, one prints
    if only_plan:
        if is_main:
            print_plan(wanted, registry, resume=resume, as_json=as_json, quiet=quiet)
        return
    known = {v.digest for adapter in wanted.adapters for v in registry.known_versions(adapter.name)}
    shown = training_progress() if is_main else None
    versions = train_all(wanted, registry=registry, resume=resume, on_progress=shown)
    if not is_main:
        return
    for version in versions:
        if version.digest in known:
            say(f"nothing changed: the same weights are there already as {version.reference}")
    rows = [{"version": version.reference, "digest": version.digest} for version in versions]
    print_rows(rows, key="version", as_json=as_json, quiet=quiet)


def _config(config: Path | None, flags: dict[str, Any], overrides: Sequence[str]) -> Any:
    """Return the config of the file, or of the flags; both at once is wrong usage."""
    from adapterhub.training.config import TrainConfig

    if config is not None:
        if flags:
            given = ", ".join(map(_option, flags))
            raise click.UsageError(f"with a config file, say {given} in the file, or with --set")
        return TrainConfig.from_toml(config, overrides=overrides)
    if not {"base", "data", "name"} <= flags.keys():
        raise click.UsageError("name a config file, or --base, --data and --name")
    adapter: dict[str, Any] = {}
    places: dict[tuple[str | int, ...], int | str] = {("base",): "--base"}
    for flag in flags.keys() - {"base"}:
        *above, last = KEYS.get(flag, flag).split(".")
        inner = adapter
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = flags[flag]
        places["adapters", 0, *above, last] = _option(flag)
    return TrainConfig.from_table(
        {"base": flags["base"], "adapters": [adapter]},
        source="the command line",
        folder=Path(),
        places=places,
        overrides=overrides,
    )


def _write_starter(
    pictures: Path, config: Path | None, flags: dict[str, Any], *, as_json: bool, quiet: bool
) -> None:
    from adapterhub.training.starter import starter_path, write_starter

    other = [_option(flag) for flag in flags if flag not in STARTER_FLAGS]
    if other:
        raise click.UsageError(f"with --init, say {', '.join(other)} in the file that it writes")
    if "triggers" in flags:
        flags["trigger_words"] = flags.pop("triggers")
    made = write_starter(pictures, config or starter_path(pictures), **flags)
    adapter = made.adapter
    trigger = f'"{adapter.trigger_words[0]}"'
    if made.without_caption:
        say(f"{made.without_caption} of {made.pictures} pictures have no caption")
    if made.is_guessed:
        say(f"the trigger word {trigger} is a guess; look whether it is right")
    rows = [
        {"config": str(made.path), "name": adapter.name, "pictures": made.pictures, "steps": adapter.steps}
    ]
    print_rows(rows, key="config", as_json=as_json, quiet=quiet)
    say(f"go on with: adapterhub train {made.path} --plan")


def _option(flag: str) -> str:
    return "--trigger" if flag == "triggers" else f"--{flag.replace('_', '-')}"
