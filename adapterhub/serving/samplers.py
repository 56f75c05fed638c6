"""The web UI's names of samplers and schedule types, and which of our schedulers they mean."""

from adapterhub.errors import SettingError
from adapterhub.runtime.schedulers import SCHEDULERS

NAMES = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_karras": "DPM++ 2M SDE Karras",
    "unipc": "UniPC",
    "deis": "DEIS",
    "lcm": "LCM",
    "tcd": "TCD",
}
SAMPLERS = {own: NAMES.get(own, own) for own in SCHEDULERS}
"""Our name to the web UI's, or to our own where it has none."""
SCHEDULE_TYPES = ("Automatic", "Uniform", "Karras")


def scheduler_of(sampler: str | None, schedule: str | None = None) -> str | None:
    """Return the name of our scheduler.

    Args:
        sampler: A name of the web UI's, or our own; None for the base's own scheduler.
        schedule: One of `SCHEDULE_TYPES`. `Automatic` is Karras with DPM++ 2M, as in the web UI.

    Raises:
        SettingError: There is no such sampler, or not with this schedule.

    Example:
        >>> scheduler_of("Euler a", "automatic"), scheduler_of("DPM++ 2M", "Karras")
        ('euler_ancestral', 'dpmpp_2m_karras')
    """
    kind = (schedule or "").strip().lower()
    if kind and kind not in {name.lower() for name in SCHEDULE_TYPES}:
        rule = f"here it must be one of {', '.join(SCHEDULE_TYPES)}"
        raise SettingError("scheduler", ascii(schedule)[:60], rule)
    if not sampler:
        return None
    known = {name.lower(): own for own, name in SAMPLERS.items()} | {own: own for own in SAMPLERS}
    own = known.get(sampler.strip().lower())
    if own is None:
        rule = f"here it must be one of {', '.join(SAMPLERS.values())}"
        raise SettingError("sampler_name", ascii(sampler)[:60], rule)
    with_karras = own if own.endswith("_karras") else f"{own}_karras"
    if kind == "karras" and with_karras not in SCHEDULERS:
        raise SettingError("scheduler", "Karras", f"{sampler} does not have it here; leave it out")
    return with_karras if kind in ("karras", "automatic") and with_karras in SCHEDULERS else own
