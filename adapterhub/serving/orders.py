"""What a client asks for, in our own names, to which other dialects are translated."""

import math
from dataclasses import dataclass
from typing import Any

from adapterhub.errors import SettingError
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.request import Request, series
from adapterhub.runtime.schedule import MERGE_METHODS, Plan, named_plan
from adapterhub.runtime.start import Start
from adapterhub.serving.fields import Fields
from adapterhub.serving.limits import RequestLimits

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


@dataclass(frozen=True)
class Order:
    """Pictures that share all but their seeds.

    Attributes:
        requests: One for each picture.
        format: `png`, `jpeg` or `webp`.
        preview_every: A preview is made every so many steps; 0 for none.
        deadline_s: After how many seconds it is too late; None for never.
    """

    requests: tuple[Request, ...]
    format: str
    preview_every: int
    deadline_s: float | None


def read_order(fields: Fields, limits: RequestLimits, *, own_size: int, plane: str | None = None) -> Order:
    """Read an order from a JSON body.

    Args:
        fields: All of them are taken.
        limits: What it may ask for.
        own_size: The side in pixels that the base was trained for.
        plane: For an order that names none.

    Raises:
        SettingError: A field is of another type, makes no sense, or asks for too much.
        UnknownFieldsError: There are fields that are not known.
        CompositionError: The composition does not follow the grammar.
    """
    prompt = fields.text("prompt", None)
    if prompt is None:
        raise SettingError("prompt", "left out", "say what to draw")
    count = fields.whole("count", 1)
    request = Request(
        "",
        negative_prompt=fields.text("negative_prompt", None),
        seed=fields.whole("seed", None),
        steps=fields.whole("steps", 30),
        guidance_scale=fields.number("guidance_scale", 5.0),
        width=fields.whole("width", None),
        height=fields.whole("height", None),
        scheduler=fields.text("scheduler", None),
        plane=fields.text("plane", plane),
        triggers=fields.text("triggers", "off"),
        prompt_syntax=fields.text("prompt_syntax", "weighted"),
        start=_start(fields),
    )
    plan = _plan(fields)
    format_name = fields.text("format", "png")
    if format_name not in FORMATS:
        raise SettingError("format", format_name, f"it must be one of {', '.join(FORMATS)}")
    preview_every = fields.whole("preview_every", 0)
    deadline_s = fields.number("deadline_s", None)
    fields.end()
    limits.check(request, count, own_size=own_size)
    return Order(tuple(series(request, [prompt], [plan], count)), format_name, preview_every, deadline_s)


def _start(fields: Fields) -> Start | None:
    image, mask = fields.picture("image"), fields.picture("mask", mode="L")
    strength = fields.number("strength", None)
    if image is not None:
        return Start(image, 0.5 if strength is None else strength, mask)
    if mask is not None or strength is not None:
        raise SettingError("image", "left out", "mask and strength go with one")
    return None


def _plan(fields: Fields) -> Plan:
    text = fields.text("composition", "").strip()
    method = fields.text("method", "sum")
    every = fields.whole("every", None)
    settings = fields.table("settings")
    if every is not None and method != "switch":
        raise SettingError("every", every, "it goes with the method switch")
    if settings and method not in ("klora", *MERGE_METHODS):
        raise SettingError("settings", ", ".join(settings), "they go with klora, and with methods that merge")
    for name, value in settings.items():
        _check_setting(name, value)
    composition = Composition.parse(text) if text else BASE
    return named_plan(composition, method, every=every, settings=settings)


def _check_setting(name: str, value: Any) -> None:
    """Check the type of a method's setting; its range is checked where it is used."""
    if name in ("space", "normalize") and isinstance(value, str | int | float):
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value)):
        raise SettingError(name, ascii(value)[:60], "it must be a number")
