"""The options of `generate` that say what pictures start from, and what else makes them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)
REFINE_FROM = 0.8
"""Where the refiner goes on by default: diffusers' own example."""


@dataclass(frozen=True)
class StartOptions:
    """The values of these options."""

    image: Path | None
    strength: float | None
    mask: Path | None
    controlnet: Path | None
    control: Path | None
    control_scale: float | None
    refiner: str | None
    refine_from: float | None
    refiner_swap: bool

    def check(self) -> None:
        """Check that they go together.

        Raises:
            click.UsageError: They do not.
        """
        if self.image is None and (self.strength is not None or self.mask is not None):
            raise click.UsageError("--strength and --mask go with --image")
        if (self.control is None) != (self.controlnet is None):
            raise click.UsageError("--controlnet and --control go together")
        if self.control_scale is not None and self.control is None:
            raise click.UsageError("--control-scale goes with --control")
        if self.refiner is None and (self.refine_from is not None or self.refiner_swap):
            raise click.UsageError("--refine-from and --refiner-swap go with --refiner")

    @property
    def loading(self) -> dict[str, Any]:
        """What `Runtime.load` is called with."""
        return {"controlnet": self.controlnet, "refiner": self.refiner, "refiner_swap": self.refiner_swap}

    @property
    def drawing(self) -> dict[str, Any]:
        """What `Runtime.generate` is called with; the pictures are read."""
        from adapterhub.runtime.start import Control, Start

        given: dict[str, Any] = {}
        if self.image is not None:
            strength = {} if self.strength is None else {"strength": self.strength}
            given["start"] = Start(self.image, mask=self.mask, **strength)
        if self.control is not None:
            scale = {} if self.control_scale is None else {"scale": self.control_scale}
            given["control"] = Control(self.control, **scale)
        if self.refiner is not None:
            given["refine_from"] = REFINE_FROM if self.refine_from is None else self.refine_from
        return given


OPTIONS = (
    click.option("--image", type=FILE, help="A picture to start from."),
    click.option("--strength", type=float, help="How much of it is given up, above 0 to 1.  [default: 0.5]"),
    click.option("--mask", type=FILE, help="A picture of its size, white where it is made anew."),
    click.option("--controlnet", type=FILE, help="Directory of a ControlNet in diffusers' format."),
    click.option("--control", type=FILE, help="The picture that steers through it."),
    click.option("--control-scale", type=float, help="The strength of that.  [default: 1.0]"),
    click.option("--refiner", help="A directory or hub id: it makes the last steps, without adapters."),
    click.option(
        "--refine-from",
        type=float,
        help=f"The part of all steps after which it goes on.  [default: {REFINE_FROM}]",
    ),
    click.option("--refiner-swap", is_flag=True, help="Keep only one of base and refiner on the device."),
)


def start_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add these options to a command, which gets them as one argument, `starting`."""

    @wraps(command)
    def wrapped(
        *,
        image: Path | None,
        strength: float | None,
        mask: Path | None,
        controlnet: Path | None,
        control: Path | None,
        control_scale: float | None,
        refiner: str | None,
        refine_from: float | None,
        refiner_swap: bool,
        **others: Any,
    ) -> None:
        starting = StartOptions(
            image,
            strength,
            mask,
            controlnet,
            control,
            control_scale,
            refiner,
            refine_from,
            refiner_swap,
        )
        starting.check()
        command(starting=starting, **others)

    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped
