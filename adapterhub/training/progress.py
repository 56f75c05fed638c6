"""How far a training is, and how fast: read off clocks and counters that are there anyway."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from adapterhub.training.executor import Training
from adapterhub.training.plan import AdapterPlan

RECENT = 50
"""Steps whose mean loss is shown."""
MEMORY_S = 1.0
"""Between two looks at the memory."""


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        name: The adapter; of a sweep's candidates with their numbers.
        step: Steps done.
        steps: Steps in all.
        loss: A running mean.
        seconds_left: For this adapter.
        steps_per_s: Its optimizer steps a second, since it began or went on, without measuring and drawing.
        pictures_per_s: Likewise.
        memory_bytes: Of the process: on the device, or in the computer's memory where that is the device.
        scores: The newest ones of its sample pictures; see `adapterhub.training.scores`.
    """

    name: str
    step: int
    steps: int
    loss: float
    seconds_left: float
    steps_per_s: float
    pictures_per_s: float
    memory_bytes: int
    scores: Mapping[str, float] = field(default_factory=dict[str, float])


OnProgress = Callable[[Progress], None]


class Pace:
    """Measures how fast the adapters of a run are trained.

    Args:
        device: What is trained on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._origin = time.monotonic()
        self._began: dict[str, tuple[float, int, float]] = {}
        self._apart = 0.0
        self._memory = 0
        self._looked = 0.0

    def after_step(self, training: Training, item: AdapterPlan, pictures: float) -> Progress:
        """Return how far an adapter is that has just done a step.

        Args:
            training: The adapter.
            item: Its plan.
            pictures: How many a pass has, on average.
        """
        now, step, steps = time.monotonic(), training.step, training.trainee.steps
        began, first, apart = self._began.setdefault(
            training.trainee.name, (self._origin, step - 1, self._apart)
        )
        seconds = max(now - began, 1e-9)
        rate = (step - first) / max(seconds - (self._apart - apart), 1e-9)
        if now - self._looked >= MEMORY_S:
            self._memory, self._looked = memory_bytes(self._device), now
        recent = training.losses[-RECENT:]
        return Progress(
            name=item.label,
            step=step,
            steps=steps,
            loss=sum(recent) / len(recent),
            seconds_left=(steps - step) * seconds / (step - first),
            steps_per_s=rate,
            pictures_per_s=rate * training.trainee.accumulation * pictures,
            memory_bytes=self._memory,
        )

    @contextmanager
    def apart(self) -> Generator[None]:
        """Take what is done inside for no training: it counts for the time left, and not for the speed."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._apart += time.monotonic() - began

    def free_slot(self, name: str = "") -> None:
        """Note that an adapter has ended, or waits from now on: one that waited begins now."""
        self._origin = time.monotonic()
        self._began.pop(name, None)


def memory_bytes(device: torch.device) -> int:
    """Return the memory that this process holds on a device, and on the CPU all that it has."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that this process has held on a device since it began, and on the CPU of all it has."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return memory_bytes(device)
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
