"""The low-rank and the mixed plane: deltas are added to what modules return, and weights stay as they are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from adapterhub.errors import PlaneError
from adapterhub.lora.weights import LowRank, Target, Update
from adapterhub.runtime.active import Stack
from adapterhub.runtime.targets import TargetIndex

Part = tuple[str, float]
"""A version's digest and its strength: with the target they say what is added."""
Pristine = Callable[[Target], Tensor | None]
"""Returns the base's weight of a target; None where it cannot be read."""


class Addend:
    """What is added to one module's output under each of several stacks of adapters.

    LoRAs are two thin products whose factors lie side by side: `(x A^T) B^T`, once for all adapters of a
    stack. Other algorithms are added as dense matrices, and updates of norms as a scale of what they
    normalise. Row `j` of the input is under stack `j % n`.

    Args:
        module: Whose output it is.
        updates: For each of n stacks, the updates of the module's weight and their strengths.
        biases: For each stack, what is added to the bias.
        base: The pristine weight, or None if it cannot be read.
        rank: To which the factors are padded, at least; see `rank_of`.
        dtype: What is computed in.
        device: Where.
    """

    def __init__(
        self,
        module: nn.Module,
        updates: Sequence[Sequence[tuple[Update, float]]],
        biases: Sequence[Sequence[tuple[Tensor, float]]],
        *,
        base: Tensor | None,
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._module: Any = module
        self._count = len(updates)
        shape = _weight_shape(module)
        plain = [[(one, w) for one, w in stack if isinstance(one, LowRank)] for stack in updates]
        others = [[(one, w) for one, w in stack if not isinstance(one, LowRank)] for stack in updates]
        self._up = self._down = self._dense = self._bias = None
        if any(plain):
            width = max(rank, *(sum(one.rank for one, _ in stack) for stack in plain))
            columns = torch.Size(shape[1:]).numel()
            ups = torch.zeros(self._count, shape[0], width, device=device)
            downs = torch.zeros(self._count, width, columns, device=device)
            for row, stack in enumerate(plain):
                start = 0
                for one, weight in stack:
                    end = start + one.rank
                    ups[row, :, start:end], downs[row, start:end] = one.factors(weight=weight)
                    start = end
            self._up, self._down = ups.to(device, dtype), downs.to(device, dtype)
        if any(others):
            whole = torch.zeros(self._count, *shape, device=device)
            for row, stack in enumerate(others):
                for one, weight in stack:
                    whole[row] += one.delta(weight=weight, base=base).reshape(shape).to(device)
            self._dense = whole.to(device, dtype)
        if any(biases):
            shift = torch.zeros(self._count, shape[0], device=device)
            for row, stack in enumerate(biases):
                for bias, weight in stack:
                    shift[row] += bias.to(device).float().flatten() * weight
            self._bias = shift.to(device, dtype)

    def add(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the output with everything added, in place where nothing is differentiated."""
        if torch.is_grad_enabled():
            output = output.clone()
        if isinstance(self._module, nn.Linear):
            self._add_linear(inputs, output)
        elif isinstance(self._module, nn.Conv2d):
            self._add_convolution(inputs, output)
        elif self._dense is not None:
            output += self._normalised(inputs) * self._placed(self._dense, output)
        if self._bias is not None:
            output += self._placed(self._bias, output)
        return output

    def _add_linear(self, inputs: Tensor, output: Tensor) -> None:
        if self._count == 1:
            flat, sums = inputs.reshape(-1, inputs.shape[-1]), output.view(-1, output.shape[-1])
            if self._up is not None and self._down is not None:
                sums.addmm_(functional.linear(flat, self._down[0]), self._up[0].t())
            if self._dense is not None:
                sums.addmm_(flat, self._dense[0].t())
            return
        rows = inputs.shape[0]
        places = inputs.reshape(rows, -1, inputs.shape[-1])
        sums = output.view(rows, -1, output.shape[-1])
        if self._up is not None and self._down is not None:
            inner = torch.bmm(places, self._for_rows(self._down, rows).transpose(1, 2))
            sums.baddbmm_(inner, self._for_rows(self._up, rows).transpose(1, 2))
        if self._dense is not None:
            sums.baddbmm_(places, self._for_rows(self._dense, rows).transpose(1, 2))

    def _add_convolution(self, inputs: Tensor, output: Tensor) -> None:
        kernel = tuple(self._module.weight.shape[1:])
        if self._up is not None and self._down is not None:
            inner = self._convolved(inputs, self._down.unflatten(2, kernel))
            output += self._convolved(inner, self._up[..., None, None], is_pointwise=True)
        if self._dense is not None:
            output += self._convolved(inputs, self._dense)

    def _convolved(self, inputs: Tensor, weights: Tensor, *, is_pointwise: bool = False) -> Tensor:
        """Convolve each row with the weights of its stack: `(n, out, in, kh, kw)`."""
        module = self._module
        how = (
            {}
            if is_pointwise
            else {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        )
        if self._count == 1:
            return functional.conv2d(inputs, weights[0], **how)
        rows = inputs.shape[0]
        grouped = self._for_rows(weights, rows).flatten(0, 1)
        result = functional.conv2d(inputs.flatten(0, 1)[None], grouped, groups=rows, **how)
        return result.unflatten(1, (rows, -1))[0]

    def _normalised(self, inputs: Tensor) -> Tensor:
        module = self._module
        if isinstance(module, nn.GroupNorm):
            return functional.group_norm(inputs, module.num_groups, eps=module.eps)
        return functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)

    def _placed(self, numbers: Tensor, output: Tensor) -> Tensor:
        """Return `(n, features)` so that it meets the features of each row of the output."""
        numbers = self._for_rows(numbers, output.shape[0])
        if isinstance(self._module, nn.Conv2d | nn.GroupNorm):
            return numbers.reshape(*numbers.shape, *[1] * (output.dim() - 2))
        return numbers.reshape(numbers.shape[0], *[1] * (output.dim() - 2), numbers.shape[-1])

    def _for_rows(self, tensor: Tensor, rows: int) -> Tensor:
        return (
            tensor
            if self._count in (1, rows)
            else tensor.repeat(rows // self._count, *[1] * (tensor.dim() - 1))
        )


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
                    handle = self._targets.modules[target].register_forward_hook(_hook(addend))
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
                for one, strength in _acting(stack, target)
                if target in one.tensors.layers
            ]
            for stack in stacks
        ]
        biases = [
            [
                (one.tensors.biases[target], strength)
                for one, strength in _acting(stack, target)
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
        return Addend(
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
            tuple((one.digest, strength) for one, strength in _acting(stack, target)) for stack in stacks
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


def _acting(stack: Stack, target: Target) -> list[tuple[Any, float]]:
    found = [
        (one, one.strength(target))
        for one in stack
        if target in one.tensors.layers or target in one.tensors.biases
    ]
    return [(one, strength) for one, strength in found if strength]


def _hook(addend: Addend) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    def add(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return addend.add(inputs[0], output)

    return add


def _weight_shape(module: Any) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)
    return tuple(module.weight.shape)
