"""The low-rank and the mixed plane in static buffers: from one swap to the next only numbers change."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adapterhub.errors import PlaneError, RankError, SettingError
from adapterhub.lora.weights import LowRank, Target
from adapterhub.runtime.active import Stack
from adapterhub.runtime.addend import Addend, hook_of, write_factors
from adapterhub.runtime.low_rank import acting_on, wanted_keys
from adapterhub.runtime.targets import TargetIndex

Buffers = dict[Target, tuple[Tensor, Tensor]]
"""For each module, B and A of all stacks: `(n, out, rank)` and `(n, rank, in * kh * kw)`."""


class ReservedPlane:
    """Adds LoRAs to what the UNet's linears and convolutions return, from buffers of a fixed rank.

    Every module has its buffers and its hook from `install` to `close`, whatever is composed: compiled code
    and recorded graphs stay valid. One stack is always in the same buffers; several, of the mixed plane, are
    in buffers for as many, from `apply` to the next with another number of stacks, or to `restore`.

    Args:
        targets: The modules.
        rank: What a stack may have on a module.
        dtype: What is computed in.
        device: Of the modules.

    Raises:
        SettingError: The rank is below 1.
    """

    def __init__(self, targets: TargetIndex, rank: int, *, dtype: torch.dtype, device: torch.device) -> None:
        if rank < 1:
            raise SettingError("the reserved rank", rank, "it must be at least 1")
        self.rank = rank
        self._shapes = targets.shapes
        self._modules = {
            target: module
            for target, module in targets.modules.items()
            if target.component == "unet" and isinstance(module, nn.Linear | nn.Conv2d)
        }
        self._dtype, self._device = dtype, device
        self._addends = {target: Addend(module, count=1) for target, module in self._modules.items()}
        self._handles: list[RemovableHandle] = []
        # What stands in the buffers that are not zero; None while they are written.
        self._written: dict[Target, object] = {}
        self._own = self._buffers(1)
        self._use(1, self._own)

    def install(self) -> None:
        """Put the hooks on."""
        for target, addend in self._addends.items():
            self._handles.append(self._modules[target].register_forward_hook(hook_of(addend)))

    def check(self, stacks: Sequence[Stack], plane: str) -> None:
        """Check that stacks fit the buffers.

        Args:
            stacks: Of all steps and pictures.
            plane: For the error.

        Raises:
            RankError: A stack has a higher rank on a module.
            PlaneError: It has something else than LoRAs.
        """
        for stack in stacks:
            for target in wanted_keys([stack]):
                rank = 0
                for one, _ in acting_on(stack, target):
                    layer = one.tensors.layers.get(target)
                    if not isinstance(layer, LowRank) or target in one.tensors.biases:
                        what = layer.algorithm if layer and not isinstance(layer, LowRank) else "bias"
                        raise PlaneError(
                            plane,
                            f"{one.reference} has a {what} update of {target}, and the reserved buffers hold "
                            'plain LoRA alone; compose it on plane="fused", or load without reserve_rank',
                        )
                    rank += layer.rank
                if rank > self.rank:
                    raise RankError(plane, rank, self.rank, str(target))

    def apply(self, stacks: Sequence[Stack]) -> None:
        """Have stacks act that `check` has passed; buffers for which nothing changes are not written.

        If that fails nothing acts, and the error goes on.

        Args:
            stacks: One, or one for each picture of a batch; row `j` is under stack `j % n`.
        """
        try:
            if len(stacks) != self._count:
                self.restore()
                self._use(len(stacks), self._own if len(stacks) == 1 else self._buffers(len(stacks)))
            wanted = wanted_keys(stacks)
            with torch.no_grad():
                for target in self._written.keys() - wanted.keys():
                    self._clear(target)
                for target, key in wanted.items():
                    if self._written.get(target) != key:
                        self._clear(target)
                        self._written[target] = None
                        self._write(target, stacks)
                        self._written[target] = key
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Have nothing act."""
        with torch.no_grad():
            for target in list(self._written):
                self._clear(target)
        self._use(1, self._own)

    def close(self) -> None:
        """Take the hooks off; closing twice is allowed."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _buffers(self, count: int) -> Buffers:
        made: Buffers = {}
        for target in self._modules:
            rows, *columns = self._shapes[target]
            up = torch.zeros(count, rows, self.rank, dtype=self._dtype, device=self._device)
            down = up.new_zeros(count, self.rank, torch.Size(columns).numel())
            made[target] = up, down
        return made

    def _use(self, count: int, buffers: Buffers) -> None:
        self._count, self._now = count, buffers
        for target, addend in self._addends.items():
            addend.count = count
            addend.up, addend.down = buffers[target]

    def _write(self, target: Target, stacks: Sequence[Stack]) -> None:
        loras = [
            [
                (layer, strength)
                for one, strength in acting_on(stack, target)
                if isinstance(layer := one.tensors.layers[target], LowRank)
            ]
            for stack in stacks
        ]
        write_factors(*self._now[target], loras)

    def _clear(self, target: Target) -> None:
        for buffer in self._now[target]:
            buffer.zero_()
        self._written.pop(target, None)
