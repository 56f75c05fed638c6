"""The planes of one pipeline: what is composed on them, and what acts while pictures are made."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapterhub.bases.compiled import CompiledBlocks
from adapterhub.errors import PlaneError
from adapterhub.lora.weights import COMPONENTS, AdapterTensors, Target
from adapterhub.runtime.active import ActivePlan, Stack, text_encoder_digest
from adapterhub.runtime.fused import FusedPlane
from adapterhub.runtime.low_rank import LowRankPlane, rank_of
from adapterhub.runtime.region_plane import RegionPlane
from adapterhub.runtime.regions import Regions
from adapterhub.runtime.reserved import ReservedPlane
from adapterhub.runtime.schedule import Composite
from adapterhub.runtime.targets import TargetIndex
from adapterhub.runtime.weight_bank import Delta

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

PLANES = ("fused", "low_rank", "mixed")
TEXT = COMPONENTS[1:]


@dataclass(frozen=True)
class Acting:
    """What acts while the pictures of a batch are made.

    Attributes:
        text_digest: Of what acts on the text encoders for a picture; prompts are cached under it.
        prepare_text: Has the text encoders be as a picture asks for.
        start: To be called before the first step, when all prompts are encoded.
        after_step: To be called at the end of each step, with its number from 0.
        rank: To which the mixed plane pads factors.
    """

    text_digest: Callable[[int], str]
    prepare_text: Callable[[int], None]
    start: Callable[[], None]
    after_step: Callable[[int], None]
    rank: int


class Planes:
    """Has compositions act on a pipeline, in its weights or beside them.

    Text encoders are written to, if they can be, whatever the plane is: a prompt's embedding is the same on
    all. Compiled blocks run as they were while hooks that come and go are on them: on the low-rank and the
    mixed plane without a reserved rank, and under `Regions`.

    Args:
        pipeline: Its UNet and text encoders are changed.
        is_writable: Whether the UNet's weights can be rewritten; those of a quantized one cannot.
        writes_text: Likewise of the text encoders; those of a base that is offloaded piece by piece cannot.
        policy: Where pristine weights lie; see `WeightBank`.
        compiler: What the UNet's blocks are compiled by; see `CompiledBlocks`.
        reserve_rank: For which the low-rank and the mixed plane have static buffers; None for hooks that come
            and go.

    Raises:
        SettingError: The blocks cannot be compiled, or the rank is below 1.
    """

    def __init__(
        self,
        pipeline: "StableDiffusionXLPipeline",
        *,
        is_writable: bool = True,
        writes_text: bool = True,
        policy: str = "gpu",
        compiler: str = "",
        reserve_rank: int | None = None,
    ) -> None:
        components: dict[str, nn.Module] = {name: getattr(pipeline, name) for name in COMPONENTS}
        self._device: torch.device = pipeline._execution_device  # a walk over all modules
        self._unet: Any = pipeline.unet
        self.is_writable = is_writable
        self.targets = TargetIndex(components)
        self.fused = FusedPlane(components, self.targets, policy=policy)
        self._low_rank = LowRankPlane(self.targets, self._pristine, pipeline.unet.dtype)
        dtype = pipeline.unet.dtype
        self._on_text = None if writes_text else LowRankPlane(self.targets, self._pristine, dtype)
        self._regions = RegionPlane(self._low_rank, self.targets, pipeline.unet)
        self._reserved = (
            None
            if reserve_rank is None
            else ReservedPlane(self.targets, reserve_rank, dtype=dtype, device=self._device)
        )
        self._blocks = CompiledBlocks(pipeline.unet, compiler)
        if self._reserved is not None:
            self._reserved.install()
        self.composed = ActivePlan()
        self.plane = "fused"

    def check(self, reference: str, tensors: AdapterTensors) -> None:
        """Check that every layer of an adapter fits a module; see `TargetIndex.check`."""
        self.targets.check(reference, tensors)

    def compose(self, active: ActivePlan, plane: str) -> None:
        """Have a composition act until the next one; if that fails the base is, and the error goes on.

        A schedule, a `Composite` and `Regions` act while pictures are made, and the base between.

        Raises:
            PlaneError: It cannot act on that plane.
        """
        self._check([active], plane, active.alone or ([active.at(0, 1)] if active.is_constant else []))
        self.composed, self.plane = ActivePlan(), "fused"
        try:
            self._compose(active, plane)
        except BaseException:
            self.restore()
            raise
        self.composed, self.plane = active, plane

    def restore(self) -> None:
        """Compose nothing."""
        self.composed, self.plane = ActivePlan(), "fused"
        self._take_off()
        if self._on_text is not None:
            self._on_text.restore()
        self.fused.restore()
        self._blocks.run(compiled=True)

    def close(self) -> None:
        """Compose nothing, and give the pipeline back as it came; closing twice is allowed."""
        self.restore()
        self._blocks.close()
        if self._reserved is not None:
            self._reserved.close()

    @property
    def reserved_rank(self) -> int:
        """For which there are static buffers; 0 for none."""
        return self._reserved.rank if self._reserved is not None else 0

    def compiler_of(self, active: ActivePlan, plane: str) -> str:
        """Return what the blocks that run are compiled by; empty if they run as they were."""
        is_static = plane == "fused" or (self._reserved is not None and not isinstance(active.plan, Regions))
        return self._blocks.name if is_static else ""

    @contextmanager
    def acting(
        self, plans: Sequence[ActivePlan], plane: str, *, steps: int, grid: tuple[int, int], rank: int = 0
    ) -> Generator[Acting]:
        """Have the right adapters act while pictures are made; what is composed is there again afterwards.

        Args:
            plans: One for all pictures, or on the mixed plane one for each.
            plane: One of `PLANES`.
            steps: Denoising steps.
            grid: Height and width of the latents.
            rank: To which the mixed plane pads factors, at least; without effect where one is reserved.

        Raises:
            PlaneError: Something cannot act on that plane.
        """
        changes = [plan.changes(steps) for plan in plans]
        now = [change[0] for change in changes]
        text = [plan.on_text(steps) for plan in plans]
        only = plans[0]
        if plane == "mixed" and self._reserved is not None:
            rank = self._reserved.rank
        elif plane == "mixed":
            rank = max(rank, *(rank_of([stack]) for change in changes for stack in change.values()), 0)

        def place() -> None:
            if isinstance(only.plan, Regions):
                height, width = grid
                self._take_off()
                self._fuse((), text[-1])
                self._regions.apply(only.regions, height=height, width=width, device=self._device)
            elif plane == "fused":
                self._take_off()
                self._fuse(now[0], text[-1])
            else:
                self._fuse((), text[-1])
                self._add(now, rank=rank)

        def prepare_text(picture: int) -> None:
            one = picture % len(plans)
            self._fuse(now[0] if plane == "fused" else (), text[one])

        def after_step(step: int) -> None:
            if any(step + 1 in change for change in changes):
                now[:] = [change.get(step + 1, before) for change, before in zip(changes, now, strict=True)]
                place()

        self._check(plans, plane, only.alone or [one for change in changes for one in change.values()])
        try:
            self._blocks.run(compiled=bool(self.compiler_of(only, plane)))
            if isinstance(only.plan, Composite):
                now[0] = ()
                with self._mean_of(only.alone, text[0], plane):
                    yield Acting(
                        lambda _: text_encoder_digest(text[0]), prepare_text, lambda: None, after_step, 0
                    )
            else:
                digests = [text_encoder_digest(stack) for stack in text]
                yield Acting(
                    lambda picture: digests[picture % len(digests)], prepare_text, place, after_step, rank
                )
        finally:
            self._compose_again()

    def _check(self, plans: Sequence[ActivePlan], plane: str, stacks: Sequence[Stack]) -> None:
        if plane == "fused" and not self.is_writable:
            raise PlaneError(
                plane, "the base's weights cannot be written to; leave the choice of a plane out"
            )
        if plane != "mixed" and len(plans) != 1:
            raise PlaneError(plane, f"{len(plans)} pictures have compositions of their own")
        for plan in plans:
            if isinstance(plan.plan, Regions) and plane != "low_rank":
                raise PlaneError(plane, "regions are added to what modules return; choose low_rank")
            if isinstance(plan.plan, Composite) and plane == "mixed":
                raise PlaneError(plane, "a Composite needs predictions of its own; make its pictures apart")
        if self._reserved is not None and plane != "fused" and not isinstance(plans[0].plan, Regions):
            self._reserved.check([_only(stack, "unet") for stack in stacks], plane)

    def _compose(self, active: ActivePlan, plane: str) -> None:
        stack = active.at(0, 1) if active.is_constant else ()
        if plane == "fused":
            self._take_off()
            self._fuse(stack, stack)
        else:
            self._regions.restore()
            self._fuse((), stack)
            self._add([stack])
        self._blocks.run(compiled=bool(self.compiler_of(active, plane)))

    def _compose_again(self) -> None:
        try:
            self._compose(self.composed, self.plane if self.is_writable else "low_rank")
        except BaseException:
            self.restore()
            raise

    def _add(self, stacks: Sequence[Stack], *, rank: int = 0) -> None:
        """Have stacks act on the UNet beside its weights."""
        on_unet = [_only(stack, "unet") for stack in stacks]
        if self._reserved is not None:
            self._reserved.apply(on_unet)
        else:
            self._low_rank.apply(on_unet, rank=rank, device=self._device)

    def _take_off(self) -> None:
        """Have nothing act on the UNet beside its weights."""
        self._regions.restore()
        self._low_rank.restore()
        if self._reserved is not None:
            self._reserved.restore()

    def _fuse(self, unet: Stack, text: Stack) -> None:
        if self._on_text is not None:
            self._on_text.apply([_only(text, *TEXT)], device=self._device)
            text = ()
        self.fused.apply((*_only(unet, "unet"), *_only(text, *TEXT)), device=self._device)

    def _pristine(self, target: Target) -> torch.Tensor | None:
        is_here = self.is_writable if target.component == "unet" else self._on_text is None
        return self.fused.pristine(target) if is_here else None

    @contextmanager
    def _mean_of(self, alone: Sequence[Stack], text: Stack, plane: str) -> Generator[None]:
        """Let the UNet predict under each stack alone, and return the mean, taken in float32."""
        unet = self._unet
        count = len(alone)
        forward, was_set = unet.forward, "forward" in vars(unet)
        deltas: list[dict[str, Delta]] = []
        if plane == "fused":
            self._take_off()
            whole = [(*_only(stack, "unet"), *_only(text, *TEXT)) for stack in alone]
            deltas = [self.fused.deltas(stack, device=self._device) for stack in whole]

        def predictions(inputs: Any, named: Any) -> Any:
            if plane == "fused":
                for delta in deltas:
                    self.fused.fuse(delta)
                    output = forward(*inputs, **named)
                    yield output, output[0].float()
            else:
                self._add(alone)
                output = forward(*_repeated(inputs, count), **_repeated(named, count))
                for part in output[0].float().unflatten(0, (-1, count)).unbind(1):
                    yield output, part

        def predict(*inputs: Any, **named: Any) -> Any:
            total: Any = None
            output: Any = None
            for output, sample in predictions(inputs, named):  # noqa: B007 - the last one is filled again
                total = sample if total is None else total + sample
            mean = (total / count).to(output[0].dtype)
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


def _only(stack: Stack, *components: str) -> Stack:
    return tuple(one.only(*components) for one in stack)


def _repeated(value: Any, count: int) -> Any:
    """Repeat each row of all tensors; single numbers such as the time are shared."""
    if isinstance(value, torch.Tensor):
        return value.repeat_interleave(count, dim=0) if value.dim() else value
    if isinstance(value, dict):
        return {name: _repeated(one, count) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_repeated(one, count) for one in value)
    return value
