"""Plans as they are given."""

from collections.abc import Sequence
from types import EllipsisType
from typing import TypeAlias

from adapterhub.errors import SettingError
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.schedule import Plan

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
