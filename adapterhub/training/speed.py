"""How fast a device is, measured in about a second, and how long a workload would take there."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.training.workload import Workload, backward, measure_workload

ROUNDS = 5
LEAST_S = 1e-9


@dataclass(frozen=True)
class Speed:
    """What a device does in a second, at the shapes of a base.

    Attributes:
        linear: Floating-point operations of matrix products a second.
        convolution: Likewise of convolutions.
        attention: Likewise of attention.
        written_bytes: Bytes a second that norms and activations write.
        operation_s: Seconds that an operation takes however small it is.
        overlaps: Whether operations are sent off while others are computed, as an accelerator has it.
    """

    linear: float
    convolution: float
    attention: float
    written_bytes: float
    operation_s: float
    overlaps: bool

    def seconds(self, work: Workload) -> float:
        """Return how long a workload takes.

        Sending is operations x `operation_s`; computing is the floating-point operations of each kind over
        their rate, and the bytes that are written over theirs. On the CPU it is the sum of both, on an
        accelerator the greater one: it waits for the computer, or the computer for it.
        """
        computing = work.linear / self.linear + work.convolution / self.convolution
        computing += work.attention / self.attention + work.written_bytes / self.written_bytes
        sending = work.operations * self.operation_s
        return max(sending, computing) if self.overlaps else sending + computing


def measure_speed(device: str, dtype: str, *, pixels: int, width: int, head: int) -> Speed:
    """Measure a device with a layer of each kind, forward and backward.

    Args:
        device: `cpu`, `cuda` or `mps`.
        dtype: In which the base computes.
        pixels: Of a pass's latents in the level where the UNet has most of its blocks.
        width: Channels there.
        head: Of an attention head there.
    """
    side = max(round(pixels**0.5), 1)
    area, heads = side * side, max(width // head, 1)
    attend = nn.functional.scaled_dot_product_attention

    def probe(
        make: Callable[[], Callable[[Tensor], Tensor]], shape: tuple[int, ...]
    ) -> tuple[Workload, float]:
        """Return what a layer costs, and how long it takes."""
        with torch.device("meta"):
            copy, like = _frozen(make()), torch.empty(shape, requires_grad=True)
            work = measure_workload(lambda: backward(copy(like).sum()))
        with torch.device(device):
            layer = _frozen(make(), getattr(torch, dtype))
            given = torch.rand(shape, dtype=getattr(torch, dtype), requires_grad=True)
        times = [_timed(lambda: backward(layer(given).sum()), device) for _ in range(1 + ROUNDS)]
        return work, max(min(times[1:]), LEAST_S)

    with torch.random.fork_rng(devices=[]):
        work, seconds = probe(_small_block, (1, 4, 16))
        operation_s = seconds / work.operations

        def rest(found: tuple[Workload, float]) -> tuple[Workload, float]:
            work, seconds = found
            return work, max(seconds - work.operations * operation_s, seconds / 10)

        linear, linear_s = rest(probe(lambda: nn.Linear(width, width), (area, width)))
        image = (1, width, side, side)
        conv, conv_s = rest(probe(lambda: nn.Conv2d(width, width, 3, padding=1), image))
        attention, attention_s = rest(probe(lambda: lambda x: attend(x, x, x), (1, heads, area, head)))
        norm, norm_s = rest(probe(lambda: nn.Sequential(nn.GroupNorm(1, width), nn.SiLU()), image))
    return Speed(
        linear=linear.linear / linear_s,
        convolution=conv.convolution / conv_s,
        attention=attention.attention / attention_s,
        written_bytes=norm.written_bytes / norm_s,
        operation_s=operation_s,
        overlaps=device != "cpu",
    )


def _small_block() -> nn.Module:
    """Return a transformer block in which nothing is computed to speak of."""
    from diffusers.models.attention import BasicTransformerBlock

    return BasicTransformerBlock(16, 1, 16)


def _frozen(layer: Any, dtype: torch.dtype = torch.float32) -> Any:
    return layer.to(dtype).requires_grad_(requires_grad=False) if isinstance(layer, nn.Module) else layer


def _timed(work: Callable[[], object], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()
