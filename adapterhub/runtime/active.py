"""What is composed, with its adapters read: which of them act in which step, and how strongly."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from adapterhub.lora.blocks import parse_block_weights
from adapterhub.lora.merge import merge
from adapterhub.lora.weights import COMPONENTS, AdapterTensors, Target
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.klora import Choices, choices_of
from adapterhub.runtime.leases import Lease
from adapterhub.runtime.regions import Area, Regions
from adapterhub.runtime.schedule import Composite, Keyframes, KLora, Merged, Plan, Switch, terms_of
from adapterhub_registry.manifest import Version
from adapterhub_registry.references import Reference


@dataclass(frozen=True)
class LoadedAdapter:
    """A version that was read and checked."""

    version: Version
    tensors: AdapterTensors


Loaded = Mapping[Reference, LoadedAdapter]


@dataclass(frozen=True)
class ActiveAdapter:
    """One adapter of a composition, resolved to a version and read.

    Attributes:
        reference: `namespace/name@number`.
        digest: The version's.
        tensors: What it adds.
        strengths: Its strength on each component.
        blocks: What they are multiplied by in single blocks and layers; see `Term`.
        silent: Modules on which it does not act now.

    Raises:
        BlockWeightsError: `blocks` cannot be read.
    """

    reference: str
    digest: str
    tensors: AdapterTensors
    strengths: Mapping[str, float]
    blocks: str = ""
    silent: frozenset[Target] = frozenset()

    def __post_init__(self) -> None:
        self._weigh  # noqa: B018 - it raises if the text cannot be read

    @property
    def key(self) -> tuple[object, ...]:
        """Equal keys mean that the same is added."""
        return (self.digest, tuple(sorted(self.strengths.items())), self.blocks, self.silent)

    def strength(self, target: Target) -> float:
        """Return the strength on one module."""
        return 0.0 if target in self.silent else self.strengths[target.component] * self._weigh(target)

    def only(self, *components: str) -> "ActiveAdapter":
        """Return it without strength on all other components."""
        return replace(
            self,
            strengths={name: one if name in components else 0.0 for name, one in self.strengths.items()},
        )

    @cached_property
    def _weigh(self) -> Callable[[Target], float]:
        return parse_block_weights(self.blocks) if self.blocks else lambda _: 1.0


Stack = tuple[ActiveAdapter, ...]
"""Adapters that act together."""


@dataclass(frozen=True)
class ActivePlan:
    """A plan with all its adapters read.

    Attributes:
        plan: What to compose.
        loaded: Its adapters.
        leases: Hold them.
    """

    plan: Plan = BASE
    loaded: Loaded = field(default_factory=dict[Reference, LoadedAdapter])
    leases: tuple[Lease, ...] = ()

    def __post_init__(self) -> None:
        activate(Composition(tuple(terms_of(self.plan))), self.loaded)
        if isinstance(self.plan, Merged):
            self._merged  # noqa: B018 - what cannot be composed raises now

    def release(self) -> None:
        """Let the adapters go; releasing twice is allowed."""
        for lease in self.leases:
            lease.release()

    @property
    def trigger_words(self) -> list[str]:
        """Those of all adapters, in their order."""
        return [word for adapter in self.loaded.values() for word in adapter.version.trigger_words]

    @property
    def is_constant(self) -> bool:
        """Whether the same adapters act in every step, in one prediction."""
        return isinstance(self.plan, Composition | Merged)

    def on_text(self, steps: int) -> Stack:
        """Return what acts on the text encoders: of what takes turns, what comes first; else all."""
        if isinstance(self.plan, Keyframes | Switch):
            return self.at(0, steps)
        return self._together

    @cached_property
    def alone(self) -> tuple[Stack, ...]:
        """Of a `Composite`: the adapters of each prediction."""
        if not isinstance(self.plan, Composite):
            return ()
        return tuple(activate(composition, self.loaded) for composition in self.plan.single)

    @cached_property
    def regions(self) -> tuple[tuple[Stack, Area | None], ...]:
        """Of `Regions`: the adapters of each, and where they act."""
        if not isinstance(self.plan, Regions):
            return ()
        return tuple((activate(composition, self.loaded), area) for composition, area in self.plan.parts)

    def at(self, step: int, steps: int) -> Stack:
        """Return what acts on the UNet in a step, counted from 0, of so many."""
        plan = self.plan
        if isinstance(plan, KLora):
            return self._chosen(step, steps)
        if isinstance(plan, Keyframes | Switch):
            return activate(plan.at(step, steps), self.loaded)
        return self._together

    def changes(self, steps: int) -> dict[int, Stack]:
        """Return what acts from which steps on; the first is 0."""
        if self.is_constant or isinstance(self.plan, Composite | Regions):
            return {0: self._together}
        found: dict[int, Stack] = {}
        last: object = None
        for step in range(steps):
            stack = self.at(step, steps)
            key = stack_key(stack)
            if key != last:
                found[step] = stack
                last = key
        return found

    @cached_property
    def _together(self) -> Stack:
        if isinstance(self.plan, Merged):
            return (self._merged,)
        return activate(Composition(tuple(terms_of(self.plan))), self.loaded)

    @cached_property
    def _merged(self) -> ActiveAdapter:
        plan: Any = self.plan
        stack = activate(plan.composition, self.loaded)
        result = merge(
            [one.tensors for one in stack],
            [1.0] * len(stack),
            method=plan.method,
            block_weights=[one.strength for one in stack],
            names=[one.digest for one in stack],
            **plan.settings,
        )
        recipe = [plan.method, sorted(plan.settings.items()), [one.key[:3] for one in stack]]
        digest = hashlib.sha256(json.dumps(recipe, default=str).encode()).hexdigest()
        label = f"{plan.method} of {plan.composition}"
        return ActiveAdapter(label, f"merged:{digest}", result.adapter, dict.fromkeys(COMPONENTS, 1.0))

    def _chosen(self, step: int, steps: int) -> Stack:
        plan: Any = self.plan
        content, style = activate(plan.composition, self.loaded)
        mine = self._choices.style_acts(step / steps)
        return replace(content, silent=mine), replace(style, silent=self._choices.shared - mine)

    @cached_property
    def _choices(self) -> Choices:
        plan: Any = self.plan
        content, style = (self.loaded[term.reference].tensors for term in plan.composition.terms)
        return choices_of(content, style, alpha=plan.alpha, beta=plan.beta)


def activate(composition: Composition, loaded: Loaded) -> Stack:
    """Return the adapters of a composition with their strengths."""
    return tuple(
        ActiveAdapter(
            loaded[term.reference].version.reference,
            loaded[term.reference].version.digest,
            loaded[term.reference].tensors,
            {component: term.strength(component) for component in COMPONENTS},
            term.blocks,
        )
        for term in composition.terms
    )


def stack_key(stack: Stack) -> tuple[object, ...]:
    """Return what is equal for stacks that add the same."""
    return tuple(one.key for one in stack)


@dataclass(frozen=True)
class AppliedAdapter:
    """What the record of a picture says of one adapter.

    Attributes:
        reference: `namespace/name@number`.
        digest: The version's.
        strengths: Its strength on each component that it has.
        targets: How many modules it changed; those at strength 0 are not counted.
    """

    reference: str
    digest: str
    strengths: Mapping[str, float]
    targets: int


def applied(adapters: Sequence[ActiveAdapter]) -> list[dict[str, object]]:
    """Return what was applied, for the record; `blocks` stands there if any were weighed."""
    entries: list[dict[str, object]] = []
    for adapter in adapters:
        targets = {*adapter.tensors.layers, *adapter.tensors.biases}
        entry: dict[str, object] = asdict(
            AppliedAdapter(
                reference=adapter.reference,
                digest=adapter.digest,
                strengths={name: adapter.strengths[name] for name in sorted({*adapter.tensors.components})},
                targets=sum(adapter.strength(target) != 0 for target in targets),
            )
        )
        entries.append(entry | ({"blocks": adapter.blocks} if adapter.blocks else {}))
    return entries


def text_encoder_digest(adapters: Sequence[ActiveAdapter]) -> str:
    """Return a digest of what is composed into the text encoders; prompts are cached under it."""
    terms = [
        [adapter.digest, str(target), adapter.strength(target)]
        for adapter in adapters
        for target in sorted({*adapter.tensors.layers, *adapter.tensors.biases})
        if target.component != "unet" and adapter.strength(target) != 0
    ]
    return hashlib.sha256(json.dumps(terms).encode()).hexdigest()
