"""Schedules: which adapters act in which denoising step, and how strongly; values, as compositions are."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from adapterhub.errors import SettingError
from adapterhub.lora.merge_recipe import METHODS
from adapterhub.runtime.composition import Composition, Term
from adapterhub.runtime.regions import Regions
from adapterhub_registry.references import Reference

ORDERS = ("even", "reference")
MERGE_METHODS = (*METHODS, "knots")
METHOD_NAMES = ("sum", "switch", "composite", "klora", *MERGE_METHODS)
MERGE_SETTINGS = frozenset({"rank", "energy", "density", "drop", "t", "space", "normalize", "seed"})


@dataclass(frozen=True)
class Keyframes:
    """Strengths that change from step to step, linearly between keyframes.

    Attributes:
        points: Places with compositions. A place is a step, counted from 0 (`int`), or a part of all steps
            (`float` from 0.0, the first step, to 1.0, the last one). Before the first place and after the
            last one the composition there holds. An adapter that a keyframe does not name has strength 0.

    Raises:
        SettingError: There are no places, or one is negative, above 1.0 or not finite.

    Example:
        >>> from adapterhub.runtime.composition import Composition
        >>> fade = Keyframes(((0.0, Composition.parse("me/ink:1")), (1.0, Composition.parse("me/ink:0"))))
        >>> [str(fade.at(step, 5)) for step in range(3)]
        ['me/ink:1.0', 'me/ink:0.75', 'me/ink:0.5']
    """

    points: tuple[tuple[int | float, Composition], ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise SettingError("the number of keyframes", 0, "there must be at least one")
        for place, _ in self.points:
            if not (place >= 0 and math.isfinite(place)) or (isinstance(place, float) and place > 1):
                raise SettingError(
                    "the place of a keyframe", place, "it must be a step from 0, or a part from 0.0 to 1.0"
                )

    @property
    def compositions(self) -> tuple[Composition, ...]:
        """All that may be active."""
        return tuple(composition for _, composition in self.points)

    def at(self, step: int, steps: int) -> Composition:
        """Return what is active in a step, counted from 0."""
        points = sorted(
            ((place * (steps - 1) if isinstance(place, float) else place, c) for place, c in self.points),
            key=lambda point: point[0],
        )
        before = [point for point in points if point[0] <= step] or points[:1]
        after = [point for point in points if point[0] >= step] or points[-1:]
        (start, first), (end, last) = before[-1], after[0]
        part = (step - start) / (end - start) if end > start else 0.0
        return first if part == 0 else _between(first, last, part)


@dataclass(frozen=True)
class Switch:
    """One adapter at a time, the next one after some steps: LoRA Switch (Zhong et al. 2024).

    Attributes:
        composition: The adapters in their order, each with its strength.
        every: Steps between changes; the paper's default is 5.
        order: `even` gives each adapter `every` steps in turn. `reference` is what the authors' code does: it
            changes at the end of steps, so that the first adapter has one step more.

    Raises:
        SettingError: There is no adapter, `every` is below 1, or the order is unknown.

    Example:
        >>> from adapterhub.runtime.composition import Composition
        >>> switch = Switch(Composition.parse("me/ink + me/corgi"), every=2)
        >>> [str(switch.at(step, 5)) for step in range(5)]
        ['me/ink:1.0', 'me/ink:1.0', 'me/corgi:1.0', 'me/corgi:1.0', 'me/ink:1.0']
    """

    composition: Composition
    every: int = 5
    order: str = "even"

    def __post_init__(self) -> None:
        if not self.composition.terms:
            raise SettingError("the number of adapters to switch between", 0, "there must be at least one")
        if self.every < 1:
            raise SettingError("the number of steps between switches", self.every, "it must be at least 1")
        if self.order not in ORDERS:
            raise SettingError("the order", self.order, f"it must be {' or '.join(ORDERS)}")

    @property
    def compositions(self) -> tuple[Composition, ...]:
        """All that may be active."""
        return (self.composition,)

    def at(self, step: int, steps: int) -> Composition:
        """Return what is active in a step, counted from 0."""
        del steps
        turn = step // self.every if self.order == "even" else max(step - 1, 0) // self.every
        return Composition((self.composition.terms[turn % len(self.composition.terms)],))


@dataclass(frozen=True)
class Composite:
    """All adapters in every step, each in a prediction of its own, whose mean is guided: LoRA Composite.

    The paper is Zhong et al. 2024. A step costs as many UNet calls as there are adapters. The prompt is
    encoded under all of them together, as the authors' code does.

    Attributes:
        composition: The adapters, each with its strength.

    Raises:
        SettingError: There is no adapter.
    """

    composition: Composition

    def __post_init__(self) -> None:
        if not self.composition.terms:
            raise SettingError("the number of adapters to take the mean of", 0, "there must be at least one")

    @property
    def compositions(self) -> tuple[Composition, ...]:
        """All that may be active."""
        return (self.composition,)

    @property
    def single(self) -> tuple[Composition, ...]:
        """Each adapter alone."""
        return tuple(Composition((term,)) for term in self.composition.terms)


@dataclass(frozen=True)
class KLora:
    """In each layer and step either the content or the style: K-LoRA (Ouyang et al. 2025, arXiv 2502.18461).

    Of both updates of a layer the sums of the largest entries are compared; the style's is scaled by
    `alpha * t + beta`, where t is the part of the steps that is done, and by the ratio of all entries. So
    content leads at first, and style later. Layers that only one of them changes are changed all the time.

    Attributes:
        composition: Two adapters: content, then style.
        alpha: The paper's 1.5.
        beta: The paper's 0.5.

    Raises:
        SettingError: There are not two different adapters, or a number is negative or not finite.
    """

    composition: Composition
    alpha: float = 1.5
    beta: float = 0.5

    def __post_init__(self) -> None:
        references = {term.reference for term in self.composition.terms}
        if len(self.composition.terms) != 2 or len(references) != 2:
            raise SettingError(
                "the number of adapters to choose from", len(references), "it must be 2: content, style"
            )
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not (math.isfinite(value) and value >= 0):
                raise SettingError(name, value, "it must be finite, and at least 0")

    @property
    def compositions(self) -> tuple[Composition, ...]:
        """All that may be active."""
        return (self.composition,)


@dataclass(frozen=True)
class Merged:
    """One adapter made of several by a method of `adapterhub.merge`, in memory, and fused.

    Attributes:
        composition: The adapters, each with its strength.
        method: As `adapterhub.lora.merge.merge` names them, for example `ties` or `dare_linear`.
        settings: Of the method, as `adapterhub.lora.merge.merge` takes them: `density`, `drop`, `rank`, ...

    Raises:
        SettingError: There is no adapter, or no such method or setting.
    """

    composition: Composition
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not self.composition.terms:
            raise SettingError("the number of adapters to merge", 0, "there must be at least one")
        if self.method not in MERGE_METHODS:
            raise SettingError(
                "the merge method", self.method, f"it must be one of {', '.join(MERGE_METHODS)}"
            )
        unknown = sorted(self.settings.keys() - MERGE_SETTINGS)
        if unknown:
            rule = f"there are {', '.join(sorted(MERGE_SETTINGS))}"
            raise SettingError("a setting of the merge", unknown[0], rule)

    @property
    def compositions(self) -> tuple[Composition, ...]:
        """All that may be active."""
        return (self.composition,)


Schedule: TypeAlias = Keyframes | Switch | KLora
Plan: TypeAlias = Composition | Schedule | Composite | Merged | Regions
"""What `Runtime.compose` takes."""


def named_plan(
    composition: Composition,
    method: str = "sum",
    *,
    every: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """Return what a method's name makes of a composition; without adapters it is the base.

    Args:
        composition: The adapters.
        method: One of `METHOD_NAMES`; `sum` and `cat` are the weighted sum.
        every: Of `switch`.
        settings: Of `klora` (`alpha`, `beta`) and of merging.

    Raises:
        SettingError: There is no such method or setting.

    Example:
        >>> from adapterhub.runtime.composition import Composition
        >>> plan = named_plan(Composition.parse("me/ink + me/corgi"), "switch", every=2)
        >>> plan.at(2, 4).terms[0].reference.name
        'corgi'
    """
    settings = dict(settings or {})
    if method not in METHOD_NAMES:
        raise SettingError("the method", method, f"it must be one of {', '.join(METHOD_NAMES)}")
    if not composition.terms or method in ("sum", "cat"):
        return composition
    if method == "switch":
        return Switch(composition) if every is None else Switch(composition, every)
    if method == "composite":
        return Composite(composition)
    if method == "klora":
        unknown = sorted(settings.keys() - {"alpha", "beta"})
        if unknown:
            raise SettingError("a setting of klora", unknown[0], "there are alpha, beta")
        return KLora(composition, **settings)
    return Merged(composition, method, settings)


def terms_of(plan: Plan) -> Iterator[Term]:
    """Yield every term that may be active."""
    for composition in (plan,) if isinstance(plan, Composition) else plan.compositions:
        yield from composition.terms


def with_terms(plan: Plan, added: Composition) -> Plan:
    """Return a composition with more adapters.

    Raises:
        SettingError: The plan is none to which adapters could be added.
    """
    if not isinstance(plan, Composition):
        rule = "a prompt adds adapters to a plain composition alone; name them there, or use no tags"
        raise SettingError("what is composed", type(plan).__name__, rule)
    return Composition((*plan.terms, *added.terms))


def _between(first: Composition, last: Composition, part: float) -> Composition:
    """Return the strengths at a part of the way from one composition to another."""
    terms: list[Term] = []
    for key in dict.fromkeys((term.reference, term.blocks) for term in (*first.terms, *last.terms)):
        here, there = _strengths(first.terms, key), _strengths(last.terms, key)
        names = here.keys() | there.keys()
        mixed = {
            name: (1 - part) * here.get(name, here[""]) + part * there.get(name, there[""]) for name in names
        }
        terms.append(Term(key[0], mixed.pop(""), mixed, key[1]))
    return Composition(tuple(terms))


def _strengths(terms: Sequence[Term], key: tuple[Reference, str]) -> Mapping[str, float]:
    """Return the strengths of an adapter and its blocks by component, summed; `""` is that of all others."""
    found = [term for term in terms if (term.reference, term.blocks) == key]
    names = {"", *(name for term in found for name in term.components)}
    return {name: sum(term.strength(name) for term in found) for name in names}
