"""What a computation costs, found by running it on tensors that have shapes and no numbers."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

CONVOLUTIONS = ("convolution", "_convolution", "convolution_backward")
BACKWARD_PRODUCTS = 2.5
"""Of attention, per product of its forward: five in place of two, because the scores are computed again."""


@dataclass(frozen=True)
class Workload:
    """What a computation costs.

    Attributes:
        linear: Floating-point operations of matrix products; a multiplication and an addition are two.
        convolution: Likewise of convolutions.
        attention: Likewise of attention.
        written_bytes: Of all results.
        operations: Calls into torch that make something.
        peak_bytes: The most that was held at once of what it made.
    """

    linear: int = 0
    convolution: int = 0
    attention: int = 0
    written_bytes: int = 0
    operations: int = 0
    peak_bytes: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations in all."""
        return self.linear + self.convolution + self.attention

    def scaled(self, factor: float) -> "Workload":
        """Return the same operations on so many times as much."""
        sizes = {name: round(value * factor) for name, value in vars(self).items() if name != "operations"}
        return Workload(**sizes, operations=self.operations)


def measure_workload(work: Callable[[], object]) -> Workload:
    """Run something on the meta device, and return what it would cost on another one.

    Every storage counts from when it is made until it is let go, so the peak is what torch's allocator would
    hold, without its rounding and without the workspaces of libraries. Attention counts as the kernels that
    never write the scores down, as those of the CPU and of CUDA do.

    Args:
        work: Computes something on tensors of the meta device.

    Example:
        >>> rows = torch.empty(2, 3, device="meta")
        >>> measure_workload(lambda: rows @ rows.mT).linear
        24
    """
    tally = _Tally()
    with _Attention(tally), tally:
        work()
    return Workload(
        linear=tally.flops["linear"],
        convolution=tally.flops["convolution"],
        attention=tally.flops["attention"],
        written_bytes=tally.written,
        operations=tally.operations,
        peak_bytes=tally.peak,
    )


def backward(loss: Tensor) -> None:
    """Compute gradients, so that `measure_workload` sees what checkpointed blocks compute again.

    A tensor's own `backward` turns modes of functions off.
    """
    engine: Any = torch.autograd.Variable._execution_engine
    engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), accumulate_grad=True)


class _Tally(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = {"linear": 0, "convolution": 0, "attention": 0}
        self.written = self.operations = self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            kind = "convolution" if packet.__name__ in CONVOLUTIONS else "linear"
            self.flops[kind] += flop_registry[packet](*args, **kwargs, out_val=out)
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        made = sum(self._count(leaf, given) for leaf in results)
        self.operations += bool(made) or func._schema.is_mutable
        self.peak = max(self.peak, self.held)
        return out

    def _count(self, tensor: Tensor, given: set[int]) -> int:
        """Count a tensor's storage until it is let go, if it is a new one; return its bytes."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in given:
            return 0
        self._known.add(key)
        self.held += size
        self.written += size
        weakref.finalize(storage, self._forget, key, size)
        return size

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


class _Attention(TorchFunctionMode):
    """Puts a stand-in for fused attention in place of torch's, which on the meta device writes the scores."""

    def __init__(self, tally: _Tally) -> None:
        super().__init__()
        self._tally = tally

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3], self._tally)
        return func(*args, **(kwargs or {}))


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tally: _Tally) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        ctx.tally = tally
        ctx.flops = 2 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        tally.flops["attention"] += ctx.flops
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        del gradients
        query, key, value, _, _ = ctx.saved_tensors
        ctx.tally.flops["attention"] += int(BACKWARD_PRODUCTS * ctx.flops)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
