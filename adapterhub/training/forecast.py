"""What a training would need: memory, time, and what each adapter costs beside full fine-tuning.

Nothing is loaded. A pass is rehearsed on the meta device, which gives its floating-point operations and the
most bytes that it holds at once. The peak is that of the greatest of three phases:

- encoding: all weights + what the VAE holds while it encodes a picture of the largest bucket;
- training: weights that stay on the device + factors + gradients + optimizer + what the biggest pass holds;
- drawing, if samples are: all weights + factors + gradients + optimizer + what decoding a picture holds.

Factors and gradients are in float32, so each is 4 bytes a number. AdamW remembers two more of them, Prodigy
four, and 8-bit AdamW two bytes. On CUDA the workspace of cuBLAS comes on top, and on the CPU the encodings
that are remembered, which lie in the same memory. What the program holds beside that is left out.

Time is the sum over passes of the seconds that `Speed.seconds` gives for one, and the encoding of each
picture once. Measuring, drawing and the writing of checkpoints are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from adapterhub.bases.find import Base
from adapterhub.bases.memory import free_bytes, memory_needed
from adapterhub.training.buckets import Size
from adapterhub.training.config import TrainConfig
from adapterhub.training.efficiency import MOMENTS_BYTES, Efficiency
from adapterhub.training.loading import idle_parts
from adapterhub.training.plan import AdapterPlan, GroupPlan
from adapterhub.training.rehearsal import PassShape, Rehearsal
from adapterhub.training.rows import REMEMBERED_BYTES
from adapterhub.training.speed import Speed, measure_speed

NUMBER = 4
"""Bytes of a number in float32."""
STATE_BYTES = {"adamw": MOMENTS_BYTES, "adamw8bit": 2, "prodigy": 4 * NUMBER}
"""What an optimizer remembers of a number, in bytes."""
WORKSPACE = {"cuda": 32 << 20}
"""Of cuBLAS."""


@dataclass(frozen=True)
class Forecast:
    """What one run would need.

    Attributes:
        run: Which.
        adapters: Trained at a time.
        memory: Bytes of each part at the peak.
        phase: When that is: `encoding`, `training` or `drawing`.
        free_bytes: That the device has now.
        seconds: Of training and encoding.
        flops: Floating-point operations of its biggest pass.
        efficiency: Of each adapter, by name.
    """

    run: str
    adapters: int
    memory: Mapping[str, int]
    phase: str
    free_bytes: int
    seconds: float
    flops: int
    efficiency: Mapping[str, Efficiency]

    @property
    def peak_bytes(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())


def make_forecasts(groups: Sequence[GroupPlan], config: TrainConfig, base: Base) -> list[Forecast]:
    """Return what each run of a plan would need.

    Args:
        groups: Of `make_plan`.
        config: That they were made from.
        base: Likewise.

    Raises:
        ConfigError: An adapter's patterns fit no layer.
    """
    device, dtype = groups[0].identity["device"], groups[0].identity["dtype"]
    rehearsal = Rehearsal(base, config.base, dtype=dtype)
    unet = base.settings("unet")
    largest = max(
        (size for group in groups for item in group.items for size in item.dataset.shown), key=_area
    )
    level = 2 ** (len(unet["block_out_channels"]) - 1) * base.latent_factor
    width = unet["block_out_channels"][-1]
    heads = unet["attention_head_dim"]
    speed = measure_speed(
        device,
        dtype,
        pixels=max(_area(largest) // level**2, 1),
        width=width,
        head=width // (heads[-1] if isinstance(heads, list) else heads),
    )
    return [_forecast(group, base, rehearsal, speed) for group in groups]


def _forecast(group: GroupPlan, base: Base, rehearsal: Rehearsal, speed: Speed) -> Forecast:
    device, dtype = group.identity["device"], group.identity["dtype"]
    items = group.items
    slots = group.slots
    networks = [item.config.network for item in items]
    shape = _biggest(items, slots)
    one = rehearsal.train(networks, shape, slots=slots)
    encoding = rehearsal.encode(max((size for item in items for size in item.dataset.shown), key=_area))
    weights = memory_needed(base, dtype)
    trains_text = any(network.trains_text for network in networks)
    away = idle_parts(torch.device(device), trains_text=trains_text)
    factors = NUMBER * rehearsal.factors(networks, slots=slots)
    trained = {item.config.name: rehearsal.trained_numbers(item.config.network) for item in items}
    states = sorted(trained[item.config.name] * STATE_BYTES[item.config.optimizer.name] for item in items)
    kept = {"factors": factors, "gradients": factors, "optimizer": sum(states[-slots:])}
    always = {"workspace": WORKSPACE[device]} if device in WORKSPACE else {}
    if device == "cpu":
        always["encodings"] = _encodings(items, base)
    phases = {
        "encoding": {"weights": sum(weights.values()), **always, "activations": encoding.peak_bytes},
        "training": {
            "weights": sum(size for part, size in weights.items() if part not in away),
            **kept,
            **always,
            "activations": one.peak_bytes,
        },
    }
    if any(item.config.validation.prompts for item in items):
        decoding = rehearsal.decode(base.resolution)
        drawn = {"weights": sum(weights.values()), **kept, **always, "activations": decoding.peak_bytes}
        phases["drawing"] = drawn
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    # What a pass computes and writes grows with its pictures; the number of its operations does not.
    work = sum(shape.counts) * _area(shape.bucket)
    seconds = sum(speed.seconds(one.scaled(size / work)) * count for count, size in _passes(items, slots))
    pictures = {
        (example.sha256, example.placement and example.placement.bucket): 1 + example.source.flip
        for item in items
        for example in (*item.dataset.examples, *item.dataset.held_out)
    }
    return Forecast(
        run=group.run,
        adapters=slots,
        memory=phases[phase],
        phase=phase,
        free_bytes=free_bytes(device),
        seconds=seconds + speed.seconds(encoding) * sum(pictures.values()),
        flops=one.flops,
        efficiency={item.config.name: _efficiency(item, trained, rehearsal) for item in items},
    )


def _efficiency(item: AdapterPlan, trained: Mapping[str, int], rehearsal: Rehearsal) -> Efficiency:
    network, own = item.config.network, trained[item.config.name]
    return Efficiency.beside(
        rehearsal.modules(trains_text=network.trains_text).values(),
        trainable=own,
        adapter_bytes=own * NUMBER,
        optimizer_bytes=own * STATE_BYTES[item.config.optimizer.name],
    )


def _area(size: Size) -> int:
    return size[0] * size[1]


def _biggest(items: Sequence[AdapterPlan], slots: int) -> PassShape:
    """Return the pass with the most pixels that could come about."""
    found: dict[tuple[Size, int], list[int]] = {}
    for item in items:
        for bucket, shown in item.dataset.shown.items():
            count = min(shown, item.config.batch_size)
            found.setdefault((bucket, item.config.max_chunks), []).append(count)
    shapes = [
        PassShape(tuple(sorted(counts)[-slots:]), bucket, chunks)
        for (bucket, chunks), counts in found.items()
    ]
    return max(shapes, key=lambda shape: (sum(shape.counts) * _area(shape.bucket), shape.chunks))


def _passes(items: Sequence[AdapterPlan], slots: int) -> list[tuple[int, float]]:
    """Return how many passes of the base there are, each with the pixels of all its pictures.

    Adapters come in waves of `slots`, and those whose pictures have one shape share a pass.
    """
    passes: list[tuple[int, float]] = []
    for start in range(0, len(items), slots):
        shapes: dict[tuple[Size, int], list[tuple[int, float]]] = {}
        for item in items[start : start + slots]:
            left = (item.config.steps - item.resumes_at) * item.config.accumulation
            shown = item.dataset.shown
            batches = {bucket: -(-count // item.config.batch_size) for bucket, count in shown.items()}
            for bucket, count in batches.items():
                own = round(left * count / sum(batches.values())), shown[bucket] / count
                shapes.setdefault((bucket, item.config.max_chunks), []).append(own)
        for (bucket, _), adapters in shapes.items():
            done, adapters = 0, sorted(adapters)
            for number, (count, _) in enumerate(adapters):
                together = sum(pictures for _, pictures in adapters[number:])
                passes.append((count - done, together * _area(bucket)))
                done = count
    return passes


def _encodings(items: Sequence[AdapterPlan], base: Base) -> int:
    """Return the bytes of pictures and captions that are remembered, at most."""
    sizes = {
        example.sha256: 2 * 4 * _area(example.placement.bucket) // base.latent_factor**2
        for item in items
        for example in item.dataset.examples
        if example.placement
    }
    texts = {(example.caption, item.config.max_chunks) for item in items for example in item.dataset.examples}
    caption = 77 * int(base.settings("unet")["cross_attention_dim"])
    numbers = sum(sizes.values()) + sum(chunks * caption for _, chunks in texts)
    return min(numbers * NUMBER, REMEMBERED_BYTES)
