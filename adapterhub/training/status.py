"""What a run says of itself while it goes on: one small file, replaced as a whole."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adapterhub_registry.files import write_atomically

FILE = "status.json"
FORMAT = 1
STATES = ("running", "stopped", "done", "failed")
CURVE = 120
"""So many points of a loss curve are kept."""


@dataclass
class AdapterStatus:
    """How far one adapter of a run is.

    Attributes:
        name: Which.
        steps: In all.
        step: Done.
        loss: The running mean.
        curve: (step, mean loss since the point before), few enough to look at.
        measured: (step, loss on held-out pictures); step 0 is the base alone.
        best_step: Whose measured loss is the lowest; 0 before there is one.
        seconds_left: As it seems.
        samples: Sheet of its pictures over time, relative to the run's directory; empty before there is one.
        report: Likewise.
        error: Why it is frozen.
        version: The version that it became; 0 for none.
        efficiency: What it costs beside full fine-tuning, as `Efficiency` has it; empty before it is trained.
        notes: What went wrong beside the training, such as a picture that could not be drawn.
        candidate: Its number among those of its adapter in a sweep; 0 outside of one.
        values: What it tries, by the keys of the sweep's grid.
        outcome: Why it became no version, if the sweep's comparison said so.
        scores: Of sample pictures: `clip_t`, `clip_i` and `dino`, each as `measured`.
    """

    name: str
    steps: int
    step: int = 0
    loss: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    measured: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    best_step: int = 0
    seconds_left: float = 0.0
    samples: str = ""
    report: str = ""
    error: str = ""
    version: int = 0
    efficiency: dict[str, int] = field(default_factory=dict[str, int])
    notes: list[str] = field(default_factory=list[str])
    candidate: int = 0
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    outcome: str = ""
    scores: dict[str, list[tuple[int, float]]] = field(default_factory=dict[str, list[tuple[int, float]]])

    @property
    def label(self) -> str:
        """What it is called among those that are trained together."""
        return f"{self.name}#{self.candidate}" if self.candidate else self.name

    @property
    def last_measured(self) -> float | None:
        """The loss on held-out pictures that was measured last; None before it was trained."""
        return next((loss for step, loss in reversed(self.measured) if step > 0), None)

    @property
    def last_scores(self) -> dict[str, float]:
        """The newest of each score."""
        return {name: points[-1][1] for name, points in self.scores.items() if points}

    @property
    def is_over(self) -> bool:
        """Whether it is trained or frozen."""
        return bool(self.error or self.version or self.outcome)

    def add_measured(self, step: int, loss: float) -> bool:
        """Add a measurement, and say whether it is the best one; one of the same step is replaced."""
        self.measured = sorted({**dict(self.measured), step: loss}.items())
        trained = [(value, at) for at, value in self.measured if at > 0]
        self.best_step = min(trained)[1] if trained else 0
        return self.best_step == step > 0

    def add_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Add the scores of a step; those of the same step are replaced."""
        for name, value in scores.items():
            self.scores[name] = sorted({**dict(self.scores.get(name, ())), step: value}.items())


@dataclass
class RunStatus:
    """How far a run is.

    Attributes:
        run: Its name.
        state: One of `STATES`, as the run itself said last; `find_runs` knows of processes that died.
        began: When, in seconds since 1970.
        updated: When this was written, likewise.
        adapters: All of the run.
        error: Why it failed.
    """

    run: str
    state: str
    began: float
    updated: float
    adapters: list[AdapterStatus]
    error: str = ""

    def write(self, directory: Path) -> None:
        """Write it, in place of what was there.

        Raises:
            OutputError: It cannot be written.
        """
        table = {"format": FORMAT, **asdict(self)}
        write_atomically(directory / FILE, (json.dumps(table) + "\n").encode())

    @classmethod
    def read(cls, directory: Path) -> "RunStatus | None":
        """Return what a run's directory holds; None if it holds nothing that this release understands."""
        try:
            table: dict[str, Any] = json.loads((directory / FILE).read_text())
            if table.pop("format") != FORMAT or table["state"] not in STATES:
                return None
            adapters = [AdapterStatus(**item) for item in table.pop("adapters")]
            for item in adapters:
                item.curve = list(_points(item.curve))
                item.measured = list(_points(item.measured))
                item.scores = {name: list(_points(points)) for name, points in item.scores.items()}
            return cls(adapters=adapters, **table)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def thinned(losses: Sequence[float], most: int = CURVE) -> list[tuple[int, float]]:
    """Return a curve of at most so many points: the last step of each, and the mean loss of its steps.

    Example:
        >>> thinned([4.0, 2.0, 1.0, 3.0], most=2)
        [(2, 3.0), (4, 2.0)]
    """
    width = max(-(-len(losses) // most), 1)
    parts = [losses[start : start + width] for start in range(0, len(losses), width)]
    ends = [min(start + width, len(losses)) for start in range(0, len(losses), width)]
    return [(end, sum(part) / len(part)) for end, part in zip(ends, parts, strict=True)]


def _points(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[int, float]]:
    return ((int(step), float(loss)) for step, loss in rows)
