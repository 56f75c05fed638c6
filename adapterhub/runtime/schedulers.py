"""Schedulers by name: diffusers' own, made from the base's settings."""

import difflib
from collections.abc import Mapping
from typing import Any

import diffusers

from adapterhub.errors import SettingError

TRAILING = {"timestep_spacing": "trailing"}
KARRAS = {"use_karras_sigmas": True}
SCHEDULERS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_trailing": ("EulerDiscreteScheduler", TRAILING),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddim_trailing": ("DDIMScheduler", TRAILING),
    "ddpm": ("DDPMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", KARRAS),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", **KARRAS}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
"""Name to diffusers' class, and settings in place of the base's. One UNet call makes one step in each.

`lcm` and `tcd` are for adapters that were distilled for them, the trailing ones for Lightning and Turbo.
"""


def make_scheduler(name: str, settings: Mapping[str, Any]) -> Any:
    """Return a scheduler by its name.

    Args:
        name: One of `SCHEDULERS`.
        settings: Of the base's own scheduler; those that the named one does not know are left out.

    Raises:
        SettingError: There is no scheduler of that name; near names are suggested.

    Example:
        >>> type(make_scheduler("ddim", {"beta_schedule": "scaled_linear"})).__name__
        'DDIMScheduler'
    """
    check_scheduler(name)
    kind, changed = SCHEDULERS[name]
    plain = {key: value for key, value in settings.items() if not key.startswith("_")}
    return getattr(diffusers, kind).from_config({**plain, **changed})


def check_scheduler(name: str) -> None:
    """Check that there is a scheduler of this name.

    Raises:
        SettingError: There is none; near names are suggested.
    """
    if name not in SCHEDULERS:
        near = difflib.get_close_matches(name, SCHEDULERS, n=3, cutoff=0.4)
        names = f"{', '.join(near)}, or another one of {len(SCHEDULERS)}" if near else ", ".join(SCHEDULERS)
        raise SettingError("the scheduler", name, f"it must be {names}")


def scheduler_record(scheduler: Any) -> dict[str, Any]:
    """Return what a record says of a scheduler: its class and its settings."""
    settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return {"class": type(scheduler).__name__, **settings}


def recorded_scheduler(record: Mapping[str, Any], own: Any) -> Any:
    """Return the scheduler of a record.

    Args:
        record: What `scheduler_record` returned.
        own: The base's own, whose class is known too.

    Raises:
        SettingError: The class is none of those that are known.
    """
    settings = dict(record)
    kind = settings.pop("class", "")
    known = {name: getattr(diffusers, name) for name, _ in SCHEDULERS.values()} | {
        type(own).__name__: type(own)
    }
    if kind not in known:
        raise SettingError("the recorded scheduler", kind, f"it must be one of {', '.join(sorted(known))}")
    return known[kind].from_config(settings)
