"""Regions on the low-rank plane: what an adapter adds is weighed place by place, in one forward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.runtime.active import Stack
from adapterhub.runtime.addend import Addend
from adapterhub.runtime.low_rank import LowRankPlane, wanted_keys
from adapterhub.runtime.regions import Area, grids
from adapterhub.runtime.targets import TargetIndex

Region = tuple[Stack, Area | None]
TEXT_SIDE = (".attn2.to_k", ".attn2.to_v")
"""Modules whose places are the prompt's tokens."""
MOSTLY = 0.5
"""A place attends to the prompt under the adapters whose areas cover more of it than this."""


class RegionPlane:
    """Adds deltas to what the UNet's modules return, in parts of the picture; see `Regions`.

    Args:
        low_rank: Makes what is added.
        targets: The modules.
        unet: Whose cross-attentions are called again for each set of regions that meet somewhere.
    """

    def __init__(self, low_rank: LowRankPlane, targets: TargetIndex, unet: nn.Module) -> None:
        self._low_rank = low_rank
        self._targets = targets
        self._unet = unet
        self._handles: list[RemovableHandle] = []
        self._covers: dict[tuple[int, int], list[Tensor]] = {}
        self._meeting: tuple[int, ...] | None = None
        self._grids: dict[int, tuple[int, int]] = {}

    def apply(self, regions: Sequence[Region], *, height: int, width: int, device: torch.device) -> None:
        """Have the regions act on latents of this height and width; if that fails, the base is active.

        Raises:
            PlaneError: An algorithm needs a weight that cannot be read.
        """
        self.restore()
        self._grids = grids(height, width)
        self._areas = [area for _, area in regions]
        try:
            attentions: set[str] = set()
            for target in dict.fromkeys(target for stack, _ in regions for target in wanted_keys([stack])):
                if target.component != "unet":
                    continue
                parts = [
                    (number, self._low_rank.addend(target, [stack], rank=0, device=device))
                    for number, (stack, _) in enumerate(regions)
                    if target in wanted_keys([stack])
                ]
                module = self._targets.modules[target]
                if target.module.endswith(TEXT_SIDE):
                    attentions.add(target.module.rpartition(".")[0])
                    hook = self._on_text(parts)
                else:
                    hook = self._on_places(parts)
                self._handles.append(module.register_forward_hook(hook))
            for name in sorted(attentions):
                attention = self._unet.get_submodule(name)
                self._handles.append(attention.register_forward_hook(self._attend_again, with_kwargs=True))
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Take all hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._covers.clear()
        self._meeting = None

    def _on_places(self, parts: Sequence[tuple[int, Addend]]) -> Any:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            covers = self._placed(module, output)
            total = output
            for number, addend in parts:
                added = addend.add(inputs[0], output.clone()) - output
                total = total + added * covers[number]
            return total

        return add

    def _on_text(self, parts: Sequence[tuple[int, Addend]]) -> Any:
        def add(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            meeting = self._everywhere if self._meeting is None else self._meeting
            for number, addend in parts:
                if number in meeting:
                    output = addend.add(inputs[0], output)
            return output

        return add

    @property
    def _everywhere(self) -> tuple[int, ...]:
        return tuple(number for number, area in enumerate(self._areas) if area is None)

    def _attend_again(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> Tensor:
        """Attend once more for each set of regions that meet, and take of each its places."""
        grid = self._grids[output.shape[1]]
        inside = torch.stack(self._cover(grid, output.device)).flatten(1) > MOSTLY  # (regions, places)
        for meeting in torch.unique(inside, dim=1).t():
            numbers = tuple(torch.nonzero(meeting).flatten().tolist())
            if numbers == self._everywhere:
                continue
            self._meeting = numbers
            try:
                again = module.forward(*inputs, **named)
            finally:
                self._meeting = None
            here = (inside == meeting[:, None]).all(dim=0)
            output = torch.where(here[None, :, None], again, output)
        return output

    def _placed(self, module: nn.Module, output: Tensor) -> list[Tensor]:
        """Return how much each region covers, so that it meets the output."""
        if output.dim() == 4:
            covers = self._cover((output.shape[2], output.shape[3]), output.device)
            return [cover[None, None].to(output.dtype) for cover in covers]
        if output.dim() == 3 and output.shape[1] in self._grids:
            covers = self._cover(self._grids[output.shape[1]], output.device)
            return [cover.flatten()[None, :, None].to(output.dtype) for cover in covers]
        del module
        covers = self._cover(self._grids[max(self._grids)], output.device)
        return [cover.mean().to(output.dtype) for cover in covers]

    def _cover(self, grid: tuple[int, int], device: torch.device) -> list[Tensor]:
        if grid not in self._covers:
            self._covers[grid] = [
                (torch.ones(grid) if area is None else area.cover(*grid)).to(device) for area in self._areas
            ]
        return self._covers[grid]
