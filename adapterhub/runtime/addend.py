"""What is added to the output of one module, beside its weight: thin products, dense matrices, biases."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapterhub.lora.weights import LowRank, Update


class Addend:
    """What is added to one module's output under each of several stacks of adapters.

    LoRAs are two thin products whose factors lie side by side: `(x A^T) B^T`, once for all adapters of a
    stack. Other algorithms are added as dense matrices, and updates of norms as a scale of what they
    normalise. Row `j` of the input is under stack `j % n`.

    Args:
        module: Whose output it is.
        count: Of stacks, n.
        up: B of each stack, `(n, out, rank)`, or None.
        down: A of each stack, `(n, rank, in * kh * kw)`, or None.
        dense: For each stack the rest of what is added to the weight, or None.
        bias: For each stack what is added to the bias, or None.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        count: int,
        up: Tensor | None = None,
        down: Tensor | None = None,
        dense: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self._module: Any = module
        self.count = count
        self.up, self.down = up, down
        self._dense = dense
        self._bias = bias

    @classmethod
    def of(
        cls,
        module: nn.Module,
        updates: Sequence[Sequence[tuple[Update, float]]],
        biases: Sequence[Sequence[tuple[Tensor, float]]],
        *,
        base: Tensor | None,
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "Addend":
        """Return what updates add.

        Args:
            module: Whose output it is.
            updates: For each of n stacks, the updates of the module's weight and their strengths.
            biases: For each stack, what is added to the bias.
            base: The pristine weight, or None if it cannot be read.
            rank: To which the factors are padded, at least; see `rank_of`.
            dtype: What is computed in.
            device: Where.
        """
        count = len(updates)
        shape = _weight_shape(module)
        plain = [[(one, w) for one, w in stack if isinstance(one, LowRank)] for stack in updates]
        others = [[(one, w) for one, w in stack if not isinstance(one, LowRank)] for stack in updates]
        addend = cls(module, count=count)
        if any(plain):
            width = max(rank, *(sum(one.rank for one, _ in stack) for stack in plain))
            columns = torch.Size(shape[1:]).numel()
            ups = torch.zeros(count, shape[0], width, device=device)
            downs = torch.zeros(count, width, columns, device=device)
            write_factors(ups, downs, plain)
            addend.up, addend.down = ups.to(device, dtype), downs.to(device, dtype)
        if any(others):
            whole = torch.zeros(count, *shape, device=device)
            for row, stack in enumerate(others):
                for one, weight in stack:
                    whole[row] += one.delta(weight=weight, base=base).reshape(shape).to(device)
            addend._dense = whole.to(device, dtype)
        if any(biases):
            shift = torch.zeros(count, shape[0], device=device)
            for row, stack in enumerate(biases):
                for bias, weight in stack:
                    shift[row] += bias.to(device).float().flatten() * weight
            addend._bias = shift.to(device, dtype)
        return addend

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
        if self.count == 1:
            flat, sums = inputs.reshape(-1, inputs.shape[-1]), output.view(-1, output.shape[-1])
            if self.up is not None and self.down is not None:
                sums.addmm_(functional.linear(flat, self.down[0]), self.up[0].t())
            if self._dense is not None:
                sums.addmm_(flat, self._dense[0].t())
            return
        rows = inputs.shape[0]
        places = inputs.reshape(rows, -1, inputs.shape[-1])
        sums = output.view(rows, -1, output.shape[-1])
        if self.up is not None and self.down is not None:
            inner = torch.bmm(places, self._for_rows(self.down, rows).transpose(1, 2))
            sums.baddbmm_(inner, self._for_rows(self.up, rows).transpose(1, 2))
        if self._dense is not None:
            sums.baddbmm_(places, self._for_rows(self._dense, rows).transpose(1, 2))

    def _add_convolution(self, inputs: Tensor, output: Tensor) -> None:
        kernel = tuple(self._module.weight.shape[1:])
        if self.up is not None and self.down is not None:
            inner = self._convolved(inputs, self.down.unflatten(2, kernel))
            output += self._convolved(inner, self.up[..., None, None], is_pointwise=True)
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
        if self.count == 1:
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
            if self.count in (1, rows)
            else tensor.repeat(rows // self.count, *[1] * (tensor.dim() - 1))
        )


def write_factors(up: Tensor, down: Tensor, stacks: Sequence[Sequence[tuple[LowRank, float]]]) -> None:
    """Write the factors of each stack's LoRAs side by side; what is behind them stays.

    Args:
        up: `(n, out, rank)`, for as many stacks and with room for their ranks.
        down: `(n, rank, in * kh * kw)`.
        stacks: LoRAs with their strengths.
    """
    for row, stack in enumerate(stacks):
        start = 0
        for one, weight in stack:
            end = start + one.rank
            up[row, :, start:end], down[row, start:end] = one.factors(weight=weight)
            start = end


def hook_of(addend: Addend) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    """Return the forward hook that adds it."""

    def add(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        return addend.add(inputs[0], output)

    return add


def _weight_shape(module: Any) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)
    return tuple(module.weight.shape)
