"""Plans as they are given, and as they are pinned: every reference a digest."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import TypeAlias

from adapterhub.errors import SettingError
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.regions import Regions
from adapterhub.runtime.schedule import Keyframes, Plan
from adapterhub_registry.references import Reference

Composable: TypeAlias = str | Plan | None
"""A composition as text, a plan, or None for the base."""


def plan_of(composition: Composable) -> Plan:
    """Return the plan that is meant.

    Raises:
        CompositionError: A text does not follow the grammar.
    """
    return Composition.parse(composition) if isinstance(composition, str) else composition or BASE


def plans_of(
    composition: Composable | Sequence[Composable] | EllipsisType, prompts: int
) -> list[Plan | None]:
    """Return what acts for each of so many prompts: one plan for all, a list, or `...` for what is composed.

    Raises:
        CompositionError: A text does not follow the grammar.
        SettingError: The list has another length.
    """
    if isinstance(composition, EllipsisType):
        return [None] * prompts
    if not isinstance(composition, Sequence) or isinstance(composition, str):
        return [plan_of(composition)] * prompts
    if len(composition) != prompts:
        rule = f"there must be {prompts}, one for each prompt"
        raise SettingError("the number of compositions", len(composition), rule)
    return [plan_of(one) for one in composition]


def pinned(plan: Plan, digest: Callable[[Reference], str]) -> Plan:
    """Return a plan that names each version by its digest, so that aliases may move.

    Example:
        >>> print(pinned(Composition.parse("me/ink@prod:0.8"), lambda _: "sha256:0123456789ab"))
        me/ink@sha256:0123456789ab:0.8
    """
    if isinstance(plan, Composition):
        return _pinned(plan, digest)
    if isinstance(plan, Keyframes):
        return Keyframes(tuple((place, _pinned(one, digest)) for place, one in plan.points))
    if isinstance(plan, Regions):
        return Regions(tuple((_pinned(one, digest), area) for one, area in plan.parts))
    return replace(plan, composition=_pinned(plan.composition, digest))


def _pinned(composition: Composition, digest: Callable[[Reference], str]) -> Composition:
    references = {term.reference: digest(term.reference) for term in composition.terms}
    return Composition(
        tuple(
            replace(term, reference=replace(term.reference, selector=references[term.reference]))
            for term in composition.terms
        )
    )
