"""What a record says of what was composed, and back: every version by its digest."""

from collections.abc import Mapping, Sequence
from typing import Any

from adapterhub.runtime.composition import BASE, Composition, Term
from adapterhub.runtime.fused import applied
from adapterhub.runtime.plane import Loaded, activate
from adapterhub.runtime.schedule import Composite, Keyframes, Plan, Switch, terms_of
from adapterhub_registry.record import GenerationRecord
from adapterhub_registry.references import Reference, parse_reference


def plan_fields(plan: Plan, loaded: Loaded) -> dict[str, Any]:
    """Return the fields of a record that say what was composed: `plane`, `composition` and `schedule`.

    Under keyframes `composition` holds each adapter once, and the keyframes their strengths.
    """
    if plan == BASE:
        return {}
    schedule: dict[str, Any] = {}
    if isinstance(plan, Composition):
        active = plan
    elif isinstance(plan, Keyframes):
        first = {term.reference: term for term in reversed(list(terms_of(plan)))}
        active = Composition(tuple(reversed(first.values())))
        points = [[place, applied(activate(composition, loaded))] for place, composition in plan.points]
        schedule = {"kind": "keyframes", "points": points}
    elif isinstance(plan, Switch):
        active = plan.composition
        schedule = {"kind": "switch", "every": plan.every, "order": plan.order}
    else:
        active = plan.composition
        schedule = {"kind": "composite"}
    return {"plane": "fused", "composition": applied(activate(active, loaded)), "schedule": schedule}


def recorded_plan(record: GenerationRecord) -> Plan:
    """Return what a record says was composed.

    Raises:
        ValueError: It says nothing that makes sense.
    """
    try:
        composition, schedule = _composition(record.composition), record.schedule
        if not schedule:
            return composition
        if schedule["kind"] == "switch":
            return Switch(composition, schedule["every"], schedule["order"])
        if schedule["kind"] == "composite":
            return Composite(composition)
        if schedule["kind"] == "keyframes":
            return Keyframes(tuple((place, _composition(entries)) for place, entries in schedule["points"]))
    except (LookupError, TypeError, AttributeError) as exc:
        raise ValueError(f"names what was composed in another way than it should ({exc!r})") from exc
    raise ValueError(f'names a schedule of the kind "{schedule["kind"]}", which this release does not know')


def _composition(entries: Sequence[Mapping[str, Any]]) -> Composition:
    terms: list[Term] = []
    for entry in entries:
        named = parse_reference(entry["reference"])
        reference = Reference(named.namespace, named.name, entry["digest"])
        terms.append(Term(reference, 1.0, entry["strengths"], entry.get("blocks", "")))
    return Composition(tuple(terms))
