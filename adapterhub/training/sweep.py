"""Try values of a config's fields: train all candidates together, and register the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterhub.bases.find import find_base
from adapterhub.settings import Launch
from adapterhub.training.plan import GroupPlan, make_sweep_plan
from adapterhub.training.processes import Processes
from adapterhub.training.run import OnProgress, Run
from adapterhub.training.runs import find_run, run_directory
from adapterhub.training.status import AdapterStatus
from adapterhub.training.stopping import Stop
from adapterhub.training.sweep_config import SweepConfig
from adapterhub.training.sweep_report import write_report, write_sheet
from adapterhub.training.train import open_site
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate.

    Attributes:
        label: The adapter's name and the candidate's number.
        values: What it tried, by the keys of the grid.
        state: `kept`, `stopped early`, `not kept` or `failed`.
        loss: On the held-out pictures, at its last step; None if none are held out.
        step: Its last one.
        steps: All that it might have had.
        version: What it became; None for nothing.
        error: Why it failed.
    """

    label: str
    values: Mapping[str, Any]
    state: str
    loss: float | None
    step: int
    steps: int
    version: Version | None = None
    error: str = ""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        run: Its name; `adapterhub runs show` says more of it.
        outcomes: Of all candidates: adapter by adapter, those that came farthest first, by their loss.
        sheet: A contact sheet, a row for each; None if the config has no `validation.prompts`.
        report: One HTML file.
    """

    run: str
    outcomes: Sequence[Outcome]
    sheet: Path | None
    report: Path

    @property
    def versions(self) -> list[Version]:
        """What was registered, the best of each adapter first."""
        return [one.version for one in self.outcomes if one.version is not None]


def plan_sweep(config: SweepConfig, *, registry: Registry, resume: str | None = None) -> GroupPlan:
    """Check everything that can be checked without loading the base; see `plan`."""
    return make_sweep_plan(config, find_base(config.train.base.model), registry=registry, resume=resume)


def sweep(
    config: SweepConfig,
    *,
    registry: Registry,
    resume: str | None = None,
    on_progress: OnProgress | None = None,
) -> SweepResult:
    """Train every candidate on one resident base, stop the worse ones early, and register the best.

    All are one run: they share base, caches and passes as the adapters of `train` do, and each sees the
    random numbers that its adapter would see alone. Those that are not kept leave weights and record in the
    run's directory.

    SIGINT and SIGTERM end it after the pass that is under way, with a checkpoint.

    Args:
        config: What to try.
        registry: Where versions go; runs and caches lie in its home.
        resume: The run's name, or `latest`, to go on from its checkpoint.
        on_progress: Called after each step of a candidate.

    Raises:
        AdapterHubError: As `train`; `TrainingError` only if of an adapter every candidate fails.
    """
    base = find_base(config.train.base.model)
    group = make_sweep_plan(config, base, registry=registry, resume=resume)
    adapters = [one.config for one in config.candidates]
    with (
        open_site(config.train, base, registry=registry, adapters=adapters) as site,
        Stop(Processes(Launch())) as stop,
    ):
        run = Run(group, site, on_progress)
        run.train(stop, is_resumed=group.is_resumed)
    directory = run_directory(registry.home, group.run)
    statuses = find_run(registry.home, group.run).adapters
    order = {adapter.name: place for place, adapter in enumerate(config.train.adapters)}
    ranked = sorted(statuses, key=lambda one: (order[one.name], *_rank(one)))
    sheet = write_sheet(directory, ranked, group)
    report = write_report(directory, ranked, group)
    made = {one.name for one in statuses if one.version}
    for error in run.failed:
        if error.name.partition("#")[0] not in made:
            raise error
    return SweepResult(group.run, [_outcome(one, run.versions) for one in ranked], sheet, report)


def _rank(status: AdapterStatus) -> tuple[Any, ...]:
    """Return what candidates of one adapter are sorted by."""
    return (
        bool(status.error),
        not status.version,
        -status.step / status.steps,
        dict(status.measured).get(status.step, math.inf),
        status.candidate,
    )


def _outcome(status: AdapterStatus, versions: Mapping[str, Version]) -> Outcome:
    return Outcome(
        label=status.label,
        values=status.values,
        state=status.outcome or ("failed" if status.error else "kept"),
        loss=status.last_measured,
        step=status.step,
        steps=status.steps,
        version=versions.get(status.label),
        error=status.error,
    )
