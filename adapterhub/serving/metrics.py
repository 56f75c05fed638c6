"""What a monitor asks for, in Prometheus' text format."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from adapterhub import __version__
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.jobs import Job

BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
OUTCOMES = ("done", "failed", "cancelled", "refused")
COUNTED = ("hits", "misses", "waited", "prefetched", "reads", "failed", "evicted", "load_seconds")


class Histogram:
    """How often seconds were at most so many.

    Example:
        >>> waits = Histogram()
        >>> waits.observe(0.2)
        >>> [line for line in waits.lines("wait_seconds", "Waited.") if "0.25" in line or "count" in line]
        ['wait_seconds_bucket{le="0.25"} 1', 'wait_seconds_count 1']
    """

    def __init__(self) -> None:
        self._counts = [0] * len(BUCKETS)
        self._count = 0
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._count += 1
        self._sum += seconds
        for place, bucket in enumerate(BUCKETS):
            self._counts[place] += seconds <= bucket

    def lines(self, name: str, text: str) -> list[str]:
        """Return the lines of this histogram."""
        rows = [f'{name}_bucket{{le="{le}"}} {n}' for le, n in zip(BUCKETS, self._counts, strict=True)]
        rows += [f'{name}_bucket{{le="+Inf"}} {self._count}', f"{name}_sum {self._sum:.6f}"]
        return [*_head(name, text, "histogram"), *rows, f"{name}_count {self._count}"]


class Metrics:
    """What became of jobs, and how long they took; for one event loop."""

    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter()
        self._waits = Histogram()
        self._totals = Histogram()

    def count(self, outcome: str) -> None:
        """Count a job by what became of it, one of `OUTCOMES`."""
        self._outcomes[outcome] += 1

    def time(self, wait_seconds: float, total_seconds: float) -> None:
        """Count how long a picture took."""
        self._waits.observe(wait_seconds)
        self._totals.observe(total_seconds)

    def text(self, runtime: Runtime, live: Iterable[Job]) -> str:
        """Return all metrics, with those of a runtime and of the jobs that have not ended."""
        states = Counter(job.state for job in live)
        residency = asdict(runtime.residency)
        info = f'adapterhub_info{{version="{__version__}",architecture="{runtime.base.architecture}"}}'
        counted = {f'outcome="{name}"': self._outcomes[name] for name in OUTCOMES}
        lines = [
            *_head("adapterhub_info", "What serves.", "gauge"),
            f"{info} 1",
            *_family(
                "adapterhub_jobs_total", "Pictures asked for, by what became of them.", "counter", counted
            ),
            *_family("adapterhub_jobs_queued", "Jobs that wait.", "gauge", {"": states["queued"]}),
            *_family("adapterhub_jobs_running", "Jobs that are made.", "gauge", {"": states["running"]}),
            *self._waits.lines("adapterhub_job_wait_seconds", "From a job's submission to its first step."),
            *self._totals.lines("adapterhub_job_seconds", "From a job's submission to its picture."),
        ]
        for name, value in residency.items():
            kind, end = ("counter", "_total") if name in COUNTED else ("gauge", "")
            text = f"Adapters at hand: {name.replace('_', ' ')}."
            lines += _family(f"adapterhub_residency_{name}{end}", text, kind, {"": value})
        return "\n".join(lines) + "\n"


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _family(name: str, text: str, kind: str, values: Mapping[str, float]) -> list[str]:
    rows = [
        f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in values.items()
    ]
    return [*_head(name, text, kind), *rows]
