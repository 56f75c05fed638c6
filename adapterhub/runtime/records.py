"""What a record says of what was composed and of what a picture was made from, and back; all by digest."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from adapterhub.errors import InputPictureError
from adapterhub.runtime.active import ActivePlan, activate, applied
from adapterhub.runtime.composition import BASE, Composition, Term
from adapterhub.runtime.regions import Area, Regions, recorded_area
from adapterhub.runtime.schedule import Composite, Keyframes, KLora, Merged, Plan, Switch, terms_of
from adapterhub.runtime.start import Control, Inputs, Picture, Start
from adapterhub_registry.record import GenerationRecord
from adapterhub_registry.references import Reference, parse_reference


def plan_fields(active: ActivePlan) -> dict[str, Any]:
    """Return the fields of a record that say what was composed: `composition` and `schedule`.

    Under keyframes `composition` holds each adapter once, and the keyframes their strengths.
    """
    plan, loaded = active.plan, active.loaded
    terms = list(terms_of(plan))
    schedule: dict[str, Any] = {}
    if isinstance(plan, Keyframes):
        terms = list({term.reference: term for term in reversed(terms)}.values())[::-1]
        points = [[place, applied(activate(composition, loaded))] for place, composition in plan.points]
        schedule = {"kind": "keyframes", "points": points}
    elif isinstance(plan, Switch):
        schedule = {"kind": "switch", "every": plan.every, "order": plan.order}
    elif isinstance(plan, KLora):
        schedule = {"kind": "klora", "alpha": plan.alpha, "beta": plan.beta}
    elif isinstance(plan, Merged):
        schedule = {"kind": "merged", "method": plan.method, "settings": dict(plan.settings)}
    elif isinstance(plan, Composite):
        schedule = {"kind": "composite"}
    elif isinstance(plan, Regions):
        schedule = {"kind": "regions", "parts": plan.record()}
    return {"composition": applied(activate(Composition(tuple(terms)), loaded)), "schedule": schedule}


def recorded_plan(record: GenerationRecord) -> Plan:
    """Return what a record says was composed.

    Raises:
        ValueError: It says nothing that makes sense.
    """
    with _readable("what was composed"):
        return _plan(_composition(record.composition), record.schedule)


def recorded_inputs(record: GenerationRecord, inputs: Inputs | None) -> tuple[Start | None, Control | None]:
    """Return what a record says a picture was made from, with the pictures, of which it has digests alone.

    Raises:
        InputPictureError: One of the pictures is missing, or is another one.
        InputError: A file is no picture.
        ValueError: The record says nothing that makes sense.
    """
    inputs = inputs or Inputs()
    given = [
        None if picture is None else Picture.of(picture, mode=mode)
        for picture, mode in ((inputs.image, "RGB"), (inputs.mask, "L"), (inputs.control, "RGB"))
    ]
    with _readable("what the picture was made from"):
        start, steered = record.start, record.control
        recorded = (start.get("image"), start.get("mask"), steered.get("image"))
        for role, entry, picture in zip(("image", "mask", "control"), recorded, given, strict=True):
            found = None if picture is None else picture.record()
            if entry != found:
                raise InputPictureError(role, entry, found)
        began, masked, steering = given
        return (
            None if began is None else Start(began, start["strength"], masked),
            None
            if steering is None
            else Control(steering, steered["scale"], steered["start"], steered["end"]),
        )


def recorded_companions(record: GenerationRecord) -> dict[str, tuple[str, str]]:
    """Return name and identity of `controlnet` and `refiner`, as far as they took part.

    Raises:
        ValueError: The record says nothing that makes sense.
    """
    with _readable("what the picture was made with"):
        entries: dict[str, Any] = {"controlnet": record.control.get("controlnet"), "refiner": record.refiner}
        return {role: (entry["name"], entry["identity"]) for role, entry in entries.items() if entry}


@contextmanager
def _readable(what: str) -> Generator[None]:
    try:
        yield
    except (LookupError, TypeError, AttributeError) as exc:
        raise ValueError(f"names {what} in another way than it should ({exc!r})") from exc


def _plan(composition: Composition, schedule: Mapping[str, Any]) -> Plan:
    if not schedule:
        return composition
    match schedule["kind"]:
        case "switch":
            return Switch(composition, schedule["every"], schedule["order"])
        case "klora":
            return KLora(composition, schedule["alpha"], schedule["beta"])
        case "merged":
            return Merged(composition, schedule["method"], schedule["settings"])
        case "composite":
            return Composite(composition)
        case "keyframes":
            return Keyframes(tuple((place, _composition(entries)) for place, entries in schedule["points"]))
        case "regions":
            parts: list[tuple[Composition, Area | None]] = []
            rest = composition.terms
            for part in schedule["parts"]:
                count = part["adapters"]
                parts.append((Composition(rest[:count]), recorded_area(part)))
                rest = rest[count:]
            return Regions(tuple(parts))
        case kind:
            raise ValueError(f'names a schedule of the kind "{kind}", which this release does not know')


def _composition(entries: Sequence[Mapping[str, Any]]) -> Composition:
    terms: list[Term] = []
    for entry in entries:
        named = parse_reference(entry["reference"])
        reference = Reference(named.namespace, named.name, entry["digest"])
        terms.append(Term(reference, 1.0, entry["strengths"], entry.get("blocks", "")))
    return Composition(tuple(terms)) if terms else BASE
