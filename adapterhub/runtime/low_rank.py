"""The low-rank and the mixed plane: deltas are added to what modules return, and weights stay as they are."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from adapterhub.errors import PlaneError
from adapterhub.lora.weights import LowRank, Target
from adapterhub.runtime.active import ActiveAdapter, Stack
from adapterhub.runtime.addend import Addend, hook_of
from adapterhub.runtime.targets import TargetIndex

Part = tuple[str, float]
"""A version's digest and its strength: with the target they say what is added."""
Pristine = Callable[[Target], Tensor | None]
"""Returns the base's weight of a target; None where it cannot be read."""


class LowRankPlane:
    """Adds deltas to what modules return, by forward hooks that are taken off again.

    Under one stack every row of a batch has the same adapters: the low-rank plane. Under several, row `j` of
    what a module is given is under stack `j % n`: the mixed plane, in which each picture has its own.

    Args:
        targets: The modules.
        pristine: Returns the base's weight of a target, for algorithms that need it.
        dtype: What is computed in.
    """

    def __init__(self, targets: TargetIndex, pristine: Pristine, dtype: torch.dtype) -> None:
        self._targets = targets
        self._pristine = pristine
        self._dtype = dtype
        self._hooks: dict[Target, tuple[object, RemovableHandle]] = {}

    @property
    def active(self) -> frozenset[Target]:
        """The modules that have a hook now."""
        return frozenset(self._hooks)

    def apply(self, stacks: Sequence[Stack], *, rank: int = 0, device: torch.device) -> None:
        """Have the stacks act; modules for which nothing changes keep what they have.

        Args:
            stacks: One, or one for each picture of a batch.
            rank: To which factors are padded, at least: kernels, and so the last bits, depend on it.
            device: Of the modules.

        Raises:
            PlaneError: An algorithm needs a weight that cannot be read; the base is active.
        """
        try:
            wanted = wanted_keys(stacks)
            for target in list(self._hooks):
                if self._hooks[target][0] != (rank, wanted.get(target)):
                    self._hooks.pop(target)[1].remove()
            for target, key in wanted.items():
                if target not in self._hooks:
                    addend = self.addend(target, stacks, rank=rank, device=device)
                    handle = self._targets.modules[target].register_forward_hook(hook_of(addend))
                    self._hooks[target] = (rank, key), handle
        except BaseException:
            self.restore()
            raise

    def addend(self, target: Target, stacks: Sequence[Stack], *, rank: int, device: torch.device) -> Addend:
        """Return what the stacks add to one module's output.

        Raises:
            PlaneError: An algorithm needs a weight that cannot be read.
        """
        updates = [
            [
                (one.tensors.layers[target], strength)
                for one, strength in acting_on(stack, target)
                if target in one.tensors.layers
            ]
            for stack in stacks
        ]
        biases = [
            [
                (one.tensors.biases[target], strength)
                for one, strength in acting_on(stack, target)
                if target in one.tensors.biases
            ]
            for stack in stacks
        ]
        base: Tensor | None = None
        needing = [update for stack in updates for update, _ in stack if not isinstance(update, LowRank)]
        if needing:
            base = self._pristine(target)
            if base is None and any(update.needs_base for update in needing):
                names = ", ".join(sorted({update.algorithm for update in needing if update.needs_base}))
                raise PlaneError(
                    "low_rank", f"{names} on {target} needs the base's weight, which cannot be read"
                )
        return Addend.of(
            self._targets.modules[target],
            updates,
            biases,
            base=base,
            rank=rank,
            dtype=self._dtype,
            device=device,
        )

    def restore(self) -> None:
        """Take all hooks off."""
        for _, handle in self._hooks.values():
            handle.remove()
        self._hooks.clear()


def wanted_keys(stacks: Sequence[Stack]) -> Mapping[Target, tuple[tuple[Part, ...], ...]]:
    """Return, for each module that changes, what each stack adds to it."""
    targets = {
        target: None
        for stack in stacks
        for one in stack
        for target in (*one.tensors.layers, *one.tensors.biases)
        if one.strength(target)
    }
    return {
        target: tuple(
            tuple((one.digest, strength) for one, strength in acting_on(stack, target)) for stack in stacks
        )
        for target in targets
    }


def rank_of(stacks: Sequence[Stack]) -> int:
    """Return the greatest rank that a stack has on a module; all factors are padded to it.

    With one rank for all modules, a picture's bits depend on its own adapters and this number alone.
    """
    highest = 0
    for stack in stacks:
        ranks: dict[Target, int] = {}
        for one in stack:
            for target, layer in one.tensors.layers.items():
                if isinstance(layer, LowRank) and one.strength(target):
                    ranks[target] = ranks.get(target, 0) + layer.rank
        highest = max(highest, *ranks.values(), 0)
    return highest


def acting_on(stack: Stack, target: Target) -> list[tuple[ActiveAdapter, float]]:
    """Return the adapters of a stack that change a module, with their strengths."""
    found = [
        (one, one.strength(target))
        for one in stack
        if target in one.tensors.layers or target in one.tensors.biases
    ]
    return [(one, strength) for one, strength in found if strength]
