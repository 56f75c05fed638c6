"""LoRA layers of several adapters at once on one frozen base, each on its own samples of a batch.

All factors are rows of one matrix, a row for each adapter: `A` of a layer is a view `(slots, rank, in)` into
it, `B` a view `(slots, out, rank)`. Ranks are padded with zeros, whose gradients are zero, so that they stay
zero. No operation of SDXL's UNet or text encoders mixes samples, so each adapter's gradient is the one that
it would have alone.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.lora.weights import AdapterTensors, LowRank, Target
from adapterhub.randomness import keyed_generator
from adapterhub.training.layers import Layer, LayerSize, NetworkConfig, layer_sizes, trainable_layers

DOWN, UP = "down", "up"


@dataclass(frozen=True)
class Segment:
    """Neighbouring columns that have one learning rate: a side of all layers of a component.

    Attributes:
        component: `unet`, `text_encoder` or `text_encoder_2`.
        side: `down` (A) or `up` (B).
        start: First column.
        stop: Behind the last one.
    """

    component: str
    side: str
    start: int
    stop: int


@dataclass
class _Slot:
    """One adapter in the bank."""

    config: NetworkConfig
    sizes: Mapping[Target, LayerSize]
    seed: int
    key: str


@dataclass(frozen=True)
class _Share:
    """Which samples of a batch belong to which slot, in order, and in which step something is dropped.

    Of a pass that processes share, `parts` has the first sample and how many the whole pass has.

    Compiled blocks are compiled anew for all of it that hooks read, and so not for each step.
    """

    slots: tuple[int, ...]
    counts: tuple[int, ...]
    step: tuple[int, ...] | None
    parts: tuple[tuple[int, int], ...] = ()


class LoraBank:
    """Trainable factors for up to `slots` adapters, active on the base's modules inside `with`.

    Args:
        components: The frozen UNet and text encoders, by name; hooks are put on their modules.
        configs: All adapters that will ever be placed; they decide how wide the rows are.
        slots: Adapters at a time.
        device: Where the factors are.
        dtype: Of the factors: float32, or float64 to compare with.

    Raises:
        ConfigError: As `layer_sizes`.

    Attributes:
        factors: All factors, `(slots, columns)`.
        gradients: Likewise; autograd adds to it.
        segments: The columns by component and side.
    """

    def __init__(
        self,
        components: Mapping[str, nn.Module],
        configs: Sequence[NetworkConfig],
        *,
        slots: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._layers = trainable_layers(components)
        sizes = [layer_sizes(config, self._layers) for config in configs]
        self._ranks = {
            target: max(size[target].rank for size in sizes if target in size)
            for target in self._layers
            if any(target in size for size in sizes)
        }
        self.segments: list[Segment] = []
        spans: dict[tuple[Target, str], tuple[int, int]] = {}
        width = 0
        for component in dict.fromkeys(target.component for target in self._ranks):
            for side in (DOWN, UP):
                start = width
                for target, rank in self._ranks.items():
                    if target.component == component:
                        columns = rank * _inner(self._layers[target], side)
                        spans[target, side] = (width, width + columns)
                        width += columns
                self.segments.append(Segment(component, side, start, width))
        self.factors = torch.zeros(slots, width, device=device, dtype=dtype)
        self.gradients = torch.zeros_like(self.factors)
        self._sides = {at: self._side(at, span) for at, span in spans.items()}
        self._scales = {target: torch.zeros(slots, device=device, dtype=dtype) for target in self._ranks}
        self._slots: list[_Slot | None] = [None] * slots
        self._share = _Share((), (), None)
        self._active = ExitStack()

    @property
    def free(self) -> list[int]:
        """The slots without an adapter."""
        return [number for number, slot in enumerate(self._slots) if slot is None]

    def place(self, slot: int, config: NetworkConfig, *, seed: int, key: str) -> None:
        """Put a new adapter into a slot.

        A is drawn as PEFT draws it, uniformly in +-1/sqrt(in); B is zero, so training starts at the base.

        Args:
            slot: A free one.
            config: One of those that the bank was made for.
            seed: Decides A.
            key: What else decides A, and dropout: the adapter's name.
        """
        sizes = layer_sizes(config, self._layers)
        self.factors[slot].zero_()
        self.gradients[slot].zero_()
        for target, scales in self._scales.items():
            size = sizes.get(target)
            scales[slot] = 0.0 if size is None else size.scale
            if size is None:
                continue
            width = _inner(self._layers[target], DOWN)
            bound = 1 / math.sqrt(width)
            name = target.module if target.component == "unet" else str(target)
            drawn = keyed_generator(seed, key, "lora", name).uniform(-bound, bound, (size.rank, width))
            with torch.no_grad():
                self._sides[target, DOWN][slot, : size.rank].copy_(torch.from_numpy(drawn).float())
        self._slots[slot] = _Slot(config, sizes, seed, key)

    def remove(self, slot: int) -> None:
        """Free a slot."""
        self._slots[slot] = None
        self.factors[slot].zero_()
        self.gradients[slot].zero_()

    def parameters(self, slot: int) -> dict[tuple[str, str], list[nn.Parameter]]:
        """Return an adapter's factors as few long vectors for an optimizer, by component and side.

        They are views of its row, and so are their gradients; padding is among them.
        """
        groups: dict[tuple[str, str], list[nn.Parameter]] = {}
        for segment in self.segments:
            columns = slice(segment.start, segment.stop)
            parameter = nn.Parameter(self.factors[slot, columns])
            parameter.grad = self.gradients[slot, columns]
            groups[segment.component, segment.side] = [parameter]
        return groups

    def factors_of(self, slot: int) -> dict[str, Tensor]:
        """Return copies of an adapter's factors without padding, by target and side."""
        row = self.factors[slot]
        return {
            f"{target}.{side}": self._block(row, target, side, size.rank).detach().cpu().clone()
            for target, size in self._at(slot).sizes.items()
            for side in (DOWN, UP)
        }

    def tensors(self, slot: int) -> AdapterTensors:
        """Return copies of an adapter's factors, in float32, as an adapter."""
        values = self.factors_of(slot)
        layers: dict[Target, LowRank] = {}
        for target, size in self._at(slot).sizes.items():
            down, up = values[f"{target}.{DOWN}"].float(), values[f"{target}.{UP}"].float()
            layer = self._layers[target]
            if isinstance(layer, nn.Conv2d):
                down = down.unflatten(1, (layer.in_channels, *layer.kernel_size))
                up = up[:, :, None, None]
            layers[target] = LowRank(down, up.contiguous(), size.scale, "config")
        return AdapterTensors(layers)

    def share(
        self,
        slots: Sequence[int],
        counts: Sequence[int],
        steps: Sequence[int] | None = None,
        *,
        parts: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Say whose samples come next: `counts[i]` of `slots[i]`, one after another, in its step `steps[i]`.

        Of nobody, so that the base is as it was. Without steps nothing is dropped, as it must be to look at
        what is trained. Of a part of a pass, `parts` says the place of the first sample and how many the pass
        has: what it would drop there is dropped. A forward of a multiple of so many samples has that multiple
        of each, as text encoders have that read prompts in chunks.
        """
        does_drop = steps is not None and any(_drops(self._at(slot).config) for slot in slots)
        dropping = (tuple(steps), tuple(parts)) if steps and does_drop else (None, ())
        self._share = _Share(tuple(slots), tuple(counts), *dropping)

    def limit_norms(self, slot: int) -> int:
        """Scale an adapter's updates down to its `max_norm`, both factors alike; return how many were."""
        at = self._at(slot)
        limit = at.config.max_norm
        limited = 0
        if not limit:
            return 0
        for target, size in at.sizes.items():
            down = self._block(self.factors[slot], target, DOWN, size.rank)
            up = self._block(self.factors[slot], target, UP, size.rank)
            # The norm of B A without the product: tr((B'B)(A A')).
            norm = size.scale * ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt()
            if norm > limit:
                factor = (limit / norm).sqrt()
                down.mul_(factor)
                up.mul_(factor)
                limited += 1
        return limited

    def __enter__(self) -> "LoraBank":
        with ExitStack() as active:
            # Rows lie apart in each layer's gradient, which autograd finds slower than it need be.
            active.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
            # Compiling a block, torch looks at the gradients of all that comes in.
            warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
            for target in self._ranks:
                handle = self._layers[target].register_forward_hook(self._hook(target))
                active.callback(handle.remove)
            self._active = active.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active.close()

    def _at(self, slot: int) -> _Slot:
        found = self._slots[slot]
        if found is None:
            raise IndexError(f"slot {slot} holds no adapter")
        return found

    def _side(self, at: tuple[Target, str], span: tuple[int, int]) -> nn.Parameter:
        """Return one side of a layer for all slots, a view into the matrix whose gradient is one too."""
        target, side = at
        shape = self._shape(target, side)
        columns = slice(*span)
        parameter = nn.Parameter(self.factors[:, columns].unflatten(1, shape))
        parameter.grad = self.gradients[:, columns].unflatten(1, shape)
        return parameter

    def _shape(self, target: Target, side: str) -> tuple[int, int]:
        rank, inner = self._ranks[target], _inner(self._layers[target], side)
        return (rank, inner) if side == DOWN else (inner, rank)

    def _block(self, row: Tensor, target: Target, side: str, rank: int) -> Tensor:
        """Return the view of one side of a layer in a row, without padding."""
        parameter = self._sides[target, side]
        start = parameter.storage_offset()  # slot 0 begins at column 0
        whole = row[start : start + parameter[0].numel()].unflatten(0, self._shape(target, side))
        return whole[:rank] if side == DOWN else whole[:, :rank]

    def _hook(self, target: Target) -> Any:
        layer = self._layers[target]
        down, up, scales = self._sides[target, DOWN], self._sides[target, UP], self._scales[target]
        only = (_only_row(down), _only_row(up)) if len(scales) == 1 else None

        def add_updates(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            share = self._share
            if not share.slots:
                return output
            times, rest = divmod(len(output), sum(share.counts))
            if rest:
                raise RuntimeError(f"{len(output)} samples cannot be shared as {share.counts}")
            counts = [times * count for count in share.counts]
            parts: list[Tensor] = []
            hidden, wide = inputs[0], isinstance(layer, nn.Conv2d)
            if not wide and only is not None:
                return self._single(hidden, output, only, target)
            if not wide and len(set(counts)) == 1:
                return self._together(hidden, output, (down, up, scales), target)
            for slot, x, y in zip(share.slots, hidden.split(counts), output.split(counts), strict=True):
                own = (down[slot].to(x.dtype), up[slot].to(x.dtype), scales[slot].to(x.dtype))
                parts.append(y + self._alone(layer, x, own, slot, target))
            return torch.cat(parts)

        return add_updates

    def _single(self, hidden: Tensor, output: Tensor, sides: tuple[Tensor, Tensor], target: Target) -> Tensor:
        """Add the update of the only adapter that there is room for, in fewer operations.

        Its sides are transposed: autograd would do that to each of them in each step.
        """
        at = self._slots[0]  # none while memory is foretold
        size = None if at is None else at.sizes.get(target)
        down, up = (side.to(hidden.dtype) for side in sides)
        inner = hidden.flatten(0, -2) @ down
        if self._share.step is not None:
            inner = self._masked(inner.view(*hidden.shape[:-1], -1), 0, target).flatten(0, -2)
        scale = 0.0 if size is None else size.scale
        return torch.addmm(output.flatten(0, -2), inner, up, alpha=scale).view_as(output)

    def _together(
        self, hidden: Tensor, output: Tensor, sides: tuple[Tensor, Tensor, Tensor], target: Target
    ) -> Tensor:
        """Add the updates of equally many samples each, in one product over all adapters."""
        slots = self._share.slots
        down, up, scales = (_rows(side, slots).to(hidden.dtype) for side in sides)
        x = hidden.reshape(len(slots), -1, hidden.shape[-1])
        inner = torch.bmm(x, down.mT) * scales[:, None, None]
        inner = self._dropped(inner.unflatten(1, (-1, *hidden.shape[1:-1])), target).flatten(1, -2)
        base = output.reshape(len(slots), -1, output.shape[-1])
        return torch.baddbmm(base, inner, up.mT).view_as(output)

    def _alone(
        self, layer: Layer, x: Tensor, sides: tuple[Tensor, Tensor, Tensor], slot: int, target: Target
    ) -> Tensor:
        """Return the update of one adapter on its samples."""
        down, up, scale = sides
        if isinstance(layer, nn.Conv2d):
            kernel = down.unflatten(1, (layer.in_channels, *layer.kernel_size))
            inner = nn.functional.conv2d(
                x, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups
            )
            inner = self._masked(inner.movedim(1, -1) * scale, slot, target).movedim(-1, 1)
            return nn.functional.conv2d(inner, up[:, :, None, None])
        return nn.functional.linear(self._masked(nn.functional.linear(x, down) * scale, slot, target), up)

    def _dropped(self, inner: Tensor, target: Target) -> Tensor:
        """Apply each adapter's dropouts to its A x, `(adapters, samples, ..., rank)`."""
        if self._share.step is None:
            return inner
        pairs = zip(self._share.slots, inner, strict=True)
        return torch.stack([self._masked(own, slot, target) for slot, own in pairs])

    def _masked(self, inner: Tensor, slot: int, target: Target) -> Tensor:
        """Apply one adapter's dropouts to its A x, `(samples, ..., rank)`.

        The masks depend on seed, adapter, step and layer alone, so that checkpointed blocks draw them again.
        """
        if self._share.step is None:
            return inner
        at = self._at(slot)
        config = at.config
        if not _drops(config) or target not in at.sizes:
            return inner
        place = self._share.slots.index(slot)
        step, count = self._share.step[place], self._share.counts[place]
        first, whole = self._share.parts[place] if self._share.parts else (0, count)
        drawn = keyed_generator(at.seed, at.key, "dropout", step, str(target))
        if drawn.random() < config.module_dropout:
            return inner * 0.0
        generator = torch.Generator(inner.device).manual_seed(int(drawn.integers(1 << 62)))
        samples, *places, width = inner.shape
        rank, times = at.sizes[target].rank, samples // count
        own = slice(times * first, times * first + samples)
        for part, shape in (
            (config.rank_dropout, (times * whole, *[1] * len(places), rank)),
            (config.dropout, (times * whole, *places, rank)),
        ):
            if part:
                drawn = torch.rand(shape, generator=generator, device=inner.device)
                kept = (drawn[own] >= part).to(inner.dtype) / (1 - part)
                inner = inner * nn.functional.pad(kept, (0, width - rank))
        return inner


def _inner(layer: Layer, side: str) -> int:
    """Return the size of a layer's side besides the rank."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels if side == UP else layer.weight[0].numel()
    return layer.out_features if side == UP else layer.in_features


def _only_row(side: nn.Parameter) -> nn.Parameter:
    """Return the one row of a side, transposed, and of its gradient, as a leaf without views below it."""
    row = nn.Parameter(side.detach()[0].mT)
    row.grad = None if side.grad is None else side.grad[0].mT
    return row


def _rows(side: Tensor, slots: Sequence[int]) -> Tensor:
    """Return the rows of these slots; a view where they are neighbours."""
    if list(slots) == list(range(slots[0], slots[0] + len(slots))):
        return side if len(slots) == len(side) else side[slots[0] : slots[0] + len(slots)]
    return side[list(slots)]


def _drops(config: NetworkConfig) -> bool:
    return bool(config.dropout or config.rank_dropout or config.module_dropout)
