"""The options of `generate` that say which adapters act, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapterhub_cli.output import locked_option

if TYPE_CHECKING:
    from adapterhub.runtime.schedule import Plan

METHODS = (
    *("sum", "switch", "composite", "klora"),
    *("svd", "slerp", "model_stock", "orthogonal", "tsv", "iso_c", "ties", "magnitude_prune"),
    *("dare_linear", "dare_ties", "knots"),
)
HOW = (
    "All adapters at once, one after another (LoRA Switch), the mean of their predictions (LoRA Composite), "
    "in each layer content or style (K-LoRA), or merged first."
)


@dataclass(frozen=True)
class ComposingOptions:
    """The values of these options."""

    uses: tuple[str, ...]
    regions: tuple[str, ...]
    locked: Path | None
    method: str
    every: int | None
    settings: tuple[str, ...]
    plane: str | None
    triggers: str
    plain: bool

    def check(self) -> None:
        """Check that they go together.

        Raises:
            click.UsageError: They do not.
        """
        if self.uses and self.locked is not None:
            raise click.UsageError("give either --use or --locked")
        if self.every is not None and self.method != "switch":
            raise click.UsageError("--every goes with --method switch")
        if self.regions and self.method != "sum":
            raise click.UsageError("--region goes with --method sum")
        if self.settings and self.method in ("sum", "switch", "composite"):
            raise click.UsageError("--set goes with klora, and with methods that merge")

    @property
    def plan(self) -> "Plan":
        """What to compose."""
        from adapterhub.runtime.composition import Composition
        from adapterhub.runtime.regions import Regions
        from adapterhub.runtime.schedule import named_plan
        from adapterhub_registry.lockfile import read_lock

        text = " + ".join(self.uses) if self.locked is None else read_lock(self.locked).composition
        composition = Composition.parse(text) if text else Composition()
        if self.regions:
            whole = ((composition, None),) if composition.terms else ()
            return Regions((*whole, *(_region(one) for one in self.regions)))
        return named_plan(composition, self.method, every=self.every, settings=_settings(self.settings))

    @property
    def drawing(self) -> dict[str, Any]:
        """What `Runtime.generate` is called with."""
        syntax = "plain" if self.plain else "weighted"
        return {"plane": self.plane, "triggers": self.triggers, "prompt_syntax": syntax}


OPTIONS = (
    click.option("--use", "uses", multiple=True, metavar="REF[:WEIGHT]", help="An adapter; repeat for more."),
    click.option(
        "--region",
        "regions",
        multiple=True,
        metavar="REF[:WEIGHT]=AREA",
        help="An adapter in a part of the picture: left,top,right,bottom from 0 to 1, or a mask's file.",
    ),
    click.option("--method", type=click.Choice(METHODS), default="sum", show_default=True, help=HOW),
    click.option("--every", type=int, help="Steps between switches.  [default: 5]"),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Of the method: alpha, beta; density, drop, t, rank, ...",
    ),
    locked_option("A lock file in place of --use"),
    click.option(
        "--plane",
        type=click.Choice(["fused", "low_rank", "mixed"]),
        help="In the weights, or beside them; by default the best.",
    ),
    click.option(
        "--triggers",
        type=click.Choice(["off", "prepend", "append"]),
        default="off",
        show_default=True,
        help="Say the adapters' trigger words.",
    ),
    click.option("--plain", is_flag=True, help="Read no weights and tags in prompts."),
)


def composing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which takes them as one argument, `composing`."""

    @wraps(function)
    def command(**given: Any) -> Any:
        names = ComposingOptions.__dataclass_fields__
        composing = ComposingOptions(**{name: given.pop(name) for name in names})
        composing.check()
        return function(composing=composing, **given)

    for option in reversed(OPTIONS):
        command = option(command)
    return command


def _region(text: str) -> tuple[Any, Any]:
    """Read `me/ink:0.8=0,0,0.5,1` or `me/ink=mask.png`; block weights have equals signs too."""
    from adapterhub.runtime.composition import Composition
    from adapterhub.runtime.regions import Box, Mask

    named, equals, area = text.rpartition("=")
    if not equals or not named or "]" in area:
        raise click.UsageError(f'--region "{text}" lacks an area: write REF[:WEIGHT]=left,top,right,bottom')
    composition = Composition.parse(named)
    try:
        edges = [float(part) for part in area.split(",")]
    except ValueError:
        return composition, Mask.of(Path(area))
    if len(edges) != 4:
        raise click.UsageError(f'--region "{text}" needs four numbers: left,top,right,bottom')
    return composition, Box(*edges)


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f'--set "{pair}" is no NAME=VALUE')
        settings[name] = _number(value)
    return settings


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
