"""The fused plane: what is composed, written into the pipeline's weights, for good or step by step."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from adapterhub.lora.weights import COMPONENTS, AdapterTensors
from adapterhub.runtime.composition import BASE, Composition
from adapterhub.runtime.fused import ActiveAdapter, TargetIndex
from adapterhub.runtime.schedule import Composite, Plan, segments
from adapterhub.runtime.weight_bank import WeightBank
from adapterhub_registry.manifest import Version
from adapterhub_registry.references import Reference

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline


@dataclass(frozen=True)
class LoadedAdapter:
    """A version that was read and checked."""

    version: Version
    tensors: AdapterTensors


Loaded = Mapping[Reference, LoadedAdapter]


@dataclass(frozen=True)
class Acting:
    """What acts while pictures are made.

    Attributes:
        on_text: The adapters under which prompts are encoded.
        after_step: To be called at the end of each step, with its number from 0.
    """

    on_text: tuple[ActiveAdapter, ...]
    after_step: Callable[[int], None]


class FusedPlane:
    """Writes what is composed into a pipeline's weights.

    Args:
        pipeline: Its UNet and text encoders are written to.
    """

    def __init__(self, pipeline: "StableDiffusionXLPipeline") -> None:
        components: dict[str, nn.Module] = {name: getattr(pipeline, name) for name in COMPONENTS}
        self._unet = pipeline.unet
        self._targets = TargetIndex(components)
        self._bank = WeightBank(components)
        self._loaded: Loaded = {}
        self._plan: Plan = BASE

    @property
    def plan(self) -> Plan:
        """What is composed."""
        return self._plan

    @property
    def loaded(self) -> Loaded:
        """The adapters of the plan."""
        return self._loaded

    def check(self, reference: str, tensors: AdapterTensors) -> None:
        """Check that every layer of an adapter fits a module; see `TargetIndex.check`."""
        self._targets.check(reference, tensors)

    def apply(self, plan: Plan, loaded: Loaded) -> None:
        """Compose; if writing fails on the way, the base is composed, and the error goes on.

        A schedule and a `Composite` are written while pictures are made, and the base's weights between.
        """
        every = (plan,) if isinstance(plan, Composition) else plan.compositions
        checked = [activate(composition, loaded) for composition in every]
        adapters = checked[0] if isinstance(plan, Composition) else ()
        self._plan, self._loaded = BASE, {}
        self._fuse(adapters)
        self._plan, self._loaded = plan, loaded

    def restore(self) -> None:
        """Compose nothing."""
        self.apply(BASE, {})

    @contextmanager
    def acting(self, steps: int) -> Generator[Acting]:
        """Have the right weights in place while prompts are encoded and `steps` steps are made."""
        plan = self._plan
        if isinstance(plan, Composition):
            yield Acting(activate(plan, self._loaded), lambda _: None)
            return
        try:
            if isinstance(plan, Composite):
                together = activate(plan.composition, self._loaded)
                on_text = [replace(one, strengths={**one.strengths, "unet": 0.0}) for one in together]
                self._fuse(on_text)  # the UNet is written before each prediction
                with self._mean_of(plan.single):
                    yield Acting(together, lambda _: None)
            else:
                changes = dict(segments(plan, steps))

                def after_step(step: int) -> None:
                    if step + 1 in changes:
                        self._fuse(activate(changes[step + 1], self._loaded))

                first = activate(changes[0], self._loaded)
                self._fuse(first)
                yield Acting(first, after_step)
        finally:
            self._bank.restore()

    def _fuse(self, adapters: Sequence[ActiveAdapter]) -> None:
        self._bank.fuse(self._targets.deltas(adapters, device=self._unet.device))

    @contextmanager
    def _mean_of(self, compositions: Sequence[Composition]) -> Generator[None]:
        """Let the UNet predict under each composition alone, and return the mean, taken in float32."""
        unet: Any = self._unet
        alone = [
            self._targets.deltas(activate(composition, self._loaded), device=unet.device)
            for composition in compositions
        ]
        forward, was_set = unet.forward, "forward" in vars(unet)

        def predict(*inputs: Any, **named: Any) -> Any:
            total: Any = None
            output: Any = None
            for deltas in alone:
                self._bank.fuse(deltas)
                output = forward(*inputs, **named)
                sample = output[0].float()
                total = sample if total is None else total + sample
            mean = (total / len(alone)).to(output[0].dtype)
            if isinstance(output, tuple):
                return (mean, *output[1:])
            output.sample = mean
            return output

        unet.forward = predict
        try:
            yield
        finally:
            if was_set:
                unet.forward = forward
            else:
                del unet.forward


def activate(composition: Composition, loaded: Loaded) -> tuple[ActiveAdapter, ...]:
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
