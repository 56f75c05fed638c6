"""What a training would do, found without the weights of the base."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adapterhub.bases.find import Base
from adapterhub.bases.load import choose_device
from adapterhub.errors import CheckpointError, DatasetError, DeviceError
from adapterhub.training.buckets import Buckets
from adapterhub.training.checkpoint import Checkpoint, has_checkpoint, load_checkpoint
from adapterhub.training.config import AdapterConfig, BaseConfig, GroupConfig, TrainConfig, config_document
from adapterhub.training.dataset import Dataset, read_sources
from adapterhub.training.holdout import hold_out
from adapterhub.training.rows import Reading, batch_order
from adapterhub.training.runs import run_directory
from adapterhub.training.scores import require_score_models
from adapterhub.training.sweep_config import Candidate, SweepConfig, SweepRules
from adapterhub.training.trackers import require_trackers
from adapterhub_registry.store import Registry


@dataclass(frozen=True)
class AdapterPlan:
    """What would be trained.

    Attributes:
        config: The adapter's settings.
        dataset: What was read.
        run: Name of the run's directory below `runs/` in the home.
        epochs: How often each picture is shown.
        without_trigger: Captions that hold no trigger word.
        next_number: The version that it would become.
        resumes_at: Step of the checkpoint that it would go on from; 0 for a fresh start.
        group: Number of the group that it is trained in, from 0.
        candidate: Which one of a sweep it is; None outside of one.
    """

    config: AdapterConfig
    dataset: Dataset
    run: str
    epochs: float
    without_trigger: int
    next_number: int
    resumes_at: int
    group: int
    candidate: Candidate | None = None

    @property
    def label(self) -> str:
        """What it is called among those that are trained together."""
        return self.candidate.label if self.candidate else self.config.name

    @property
    def stem(self) -> str:
        """How its files are called in the run's directory."""
        # No name holds two dashes, so that this is the stem of no other adapter.
        return file_stem(self.config.name) + (f"--{self.candidate.number}" if self.candidate else "")

    @property
    def reading(self) -> Reading:
        """How its data set is read."""
        config = self.config
        return Reading(
            name=config.name.lower(),
            seed=config.seed,
            batch_size=config.batch_size,
            chunks=config.max_chunks,
            unmasked_weight=config.objective.unmasked_weight,
            trains_text=config.network.trains_text,
        )


@dataclass(frozen=True)
class GroupPlan:
    """Adapters that are trained together, and their run.

    Attributes:
        run: Name of its directory.
        items: In their order.
        identity: What a checkpoint must agree on to be gone on from.
        slots: How many are trained at a time.
        is_resumed: Whether it goes on from its checkpoint.
        rules: Of the sweep that it is, if it is one.
        process: Who trains it, from 0.
        processes: How many train it, each some samples of every pass; `process` is the first then.
    """

    run: str
    items: Sequence[AdapterPlan]
    identity: Mapping[str, str]
    slots: int
    is_resumed: bool
    rules: SweepRules | None = None
    process: int = 0
    processes: int = 1


def file_stem(name: str) -> str:
    """Return an adapter's name as a file may be called."""
    return name.lower().replace("/", "--")


def make_plan(
    config: TrainConfig, base: Base, *, registry: Registry, resume: str | None = None, processes: int = 1
) -> list[GroupPlan]:
    """Read and check everything that can be without loading the base.

    Args:
        config: What to train.
        base: On what.
        registry: Where it would be registered.
        resume: A run's name, or `latest` for each group that has a checkpoint.
        processes: How many share the adapters.

    Raises:
        DeviceError: There are more processes than samples of the only adapter.
        AdapterHubError: As `read_sources`, `load_checkpoint`, `require_trackers` and `require_score_models`.
    """
    require_trackers(config.group.trackers)
    require_score_models(config.adapters)
    together = _together(config, processes)
    found = _read_all(config, base)
    groups = _groups(config, processes)
    runs = [_run(*_chosen(config, found, group), base) for _, group in groups]
    names = [name for name, _ in runs]
    if resume is not None:
        _require_as_many(config, found, base, registry.home, resume, processes)
    if resume not in (None, "latest", *names):
        reason = f"with this config, data and base, the run is {' or '.join(names)}"
        raise CheckpointError(run_directory(registry.home, str(resume)), reason)
    resumed = {resume}
    if resume == "latest":  # a group whose turn had not come begins; without any, the first one says so
        resumed = {name for name in names if has_checkpoint(run_directory(registry.home, name))} or {names[0]}
    device, dtype = placement(config.base)
    plans: list[GroupPlan] = []
    for number, ((process, group), (run, identity)) in enumerate(zip(groups, runs, strict=True)):
        steps: dict[str, int] = {}
        # The run's name is the same on all of them.
        identity |= {"device": device, "dtype": dtype}
        if together > 1:  # their sums are rounded otherwise
            identity["number of processes"] = str(together)
        is_resumed = run in resumed
        slots = _slots(_chosen(config, found, group)[0], config.group)
        if is_resumed:
            checkpoint = _load(run_directory(registry.home, run), identity, slots)
            accumulation = {config.adapters[n].name.lower(): config.adapters[n].accumulation for n in group}
            steps = {one.name: one.passes // accumulation[one.name] for one in checkpoint.active}
            steps |= {
                adapter.name.lower(): adapter.steps
                for adapter in (config.adapters[n] for n in group)
                if adapter.name.lower() in checkpoint.ended
            }
        items = [_plan(config.adapters[n], found[n], run, number, steps, registry) for n in group]
        plans.append(GroupPlan(run, items, identity, slots, is_resumed, process=process, processes=together))
    return plans


def make_sweep_plan(
    config: SweepConfig, base: Base, *, registry: Registry, resume: str | None = None
) -> GroupPlan:
    """Read and check everything that a sweep needs without loading the base; it is one run.

    Args:
        config: What to try.
        base: On what.
        registry: Where the best would be registered.
        resume: The run's name, or `latest`.

    Raises:
        AdapterHubError: As `make_plan`.
    """
    require_trackers(config.train.group.trackers)
    require_score_models([one.config for one in config.candidates])
    read: dict[tuple[Any, ...], Dataset] = {}
    found: list[Dataset] = []
    for one in config.candidates:
        own = one.config
        key = (own.sources, own.resolution, own.buckets, own.no_upscale, own.validation.held_out)
        if key not in read:
            read[key] = _read(own, base)
        found.append(read[key])
    configs = [one.config for one in config.candidates]
    _, identity = _run(configs, found, base)
    identity["sweep"] = hashlib.sha256(json.dumps(asdict(config.rules)).encode()).hexdigest()
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    run = f"{file_stem(configs[0].name)}-sweep-{digest[:12]}"
    directory = run_directory(registry.home, run)
    if resume not in (None, "latest", run):
        reason = f"with this config, data and base, the run is {run}"
        raise CheckpointError(run_directory(registry.home, str(resume)), reason)
    device, dtype = placement(config.train.base)
    identity |= {"device": device, "dtype": dtype}
    slots = _slots(configs, config.train.group)
    if resume is not None:
        _load(directory, identity, slots)
    items = [
        replace(_plan(one.config, dataset, run, 0, {}, registry), candidate=one)
        for one, dataset in zip(config.candidates, found, strict=True)
    ]
    return GroupPlan(run, items, identity, slots, resume is not None, rules=config.rules)


def placement(config: BaseConfig) -> tuple[str, str]:
    """Return device and dtype of the base: bfloat16 on a device that is not the CPU.

    Raises:
        DeviceError: One of them is not there.
    """
    device, dtype = choose_device(config.device or None, config.dtype or None)
    return device, dtype if config.dtype or device == "cpu" else "bfloat16"


def shares(config: TrainConfig, processes: int) -> list[list[int]]:
    """Return which adapters each process trains, so that all have about as much to do.

    Those that show the most pictures go first, each to the process with the least; the config alone decides.
    """
    work = [one.steps * one.accumulation * one.batch_size for one in config.adapters]
    taken: list[list[int]] = [[] for _ in range(processes)]
    for number in sorted(range(len(work)), key=lambda number: -work[number]):
        min(taken, key=lambda own: sum(work[n] for n in own)).append(number)
    return [sorted(own) for own in taken]


def _together(config: TrainConfig, processes: int) -> int:
    """Return how many processes train each adapter: all of them if there is one alone.

    Raises:
        DeviceError: They are more than its passes have samples.
    """
    if len(config.adapters) != 1:
        return 1
    samples = config.adapters[0].batch_size
    if samples < processes:
        rule = (
            f"they share the {samples} pictures of each pass; start at most {samples}, or raise batch_size "
            "and lower accumulation"
        )
        raise DeviceError("the number of processes", processes, rule)
    return processes


def _groups(config: TrainConfig, processes: int) -> list[tuple[int, list[int]]]:
    """Return who trains which adapters together: all LoRAs of a process, and each of its others alone."""
    found: list[tuple[int, list[int]]] = []
    for process, own in enumerate(shares(config, processes)):
        together = [n for n in own if config.adapters[n].network.algorithm == "lora"]
        if config.group.executor == "sequential":
            together = []
        parts = [*([together] if together else []), *([n] for n in own if n not in together)]
        found += [(process, part) for part in parts]
    return found


def _slots(configs: Sequence[AdapterConfig], group: GroupConfig) -> int:
    """Return how many adapters of one run are trained at a time: of those that are no LoRAs, one."""
    is_alone = group.executor == "sequential" or any(one.network.algorithm != "lora" for one in configs)
    return 1 if is_alone else min(len(configs), group.max_adapters)


def _load(directory: Path, identity: Mapping[str, str], slots: int) -> Checkpoint:
    """Read the checkpoint that a run goes on from.

    Raises:
        CheckpointError: As `load_checkpoint`, or an adapter has a slot that would not be there.
    """
    found = load_checkpoint(directory, identity=identity)
    needed = 1 + max((one.slot for one in found.active), default=0)
    if needed > slots:
        together = ' and group.executor to "auto"' if slots == 1 else ""
        wanted = f"set group.max_adapters to at least {needed}{together}"
        reason = f"it was begun with {needed} adapters at a time, and not with {slots}; {wanted}"
        raise CheckpointError(directory, reason)
    return found


def _require_as_many(
    config: TrainConfig, found: Sequence[Dataset], base: Base, home: Path, resume: str, processes: int
) -> None:
    """Check that a run to go on from was not begun by another number of processes: its adapters differ then.

    Raises:
        CheckpointError: It was.
    """

    def runs(count: int) -> list[str]:
        names = [_run(*_chosen(config, found, group), base)[0] for _, group in _groups(config, count)]
        return [name for name in names if has_checkpoint(run_directory(home, name))]

    if runs(processes):
        return
    for count in range(1, len(config.adapters) + 1):
        begun = [name for name in runs(count) if resume in ("latest", name)]
        if begun:
            one = "1 process" if count == 1 else f"{count} processes"
            reason = f"it was begun by {one}, and not by {processes}; start as many"
            raise CheckpointError(run_directory(home, begun[0]), reason)


def _chosen(
    config: TrainConfig, found: Sequence[Dataset], group: Sequence[int]
) -> tuple[list[AdapterConfig], list[Dataset]]:
    return [config.adapters[n] for n in group], [found[n] for n in group]


def _read_all(config: TrainConfig, base: Base) -> list[Dataset]:
    """Read all data sets; what is wrong with any of them is told at once."""
    found: list[Dataset] = []
    refused: list[DatasetError] = []
    for adapter in config.adapters:
        try:
            found.append(_read(adapter, base))
        except DatasetError as exc:
            refused.append(exc)
    if refused:
        first, *others = refused
        more = (
            f"{exc.folder}: {text}" for exc in others if exc.folder != first.folder for text in exc.problems
        )
        raise DatasetError(first.folder, list(dict.fromkeys([*first.problems, *more])))
    return found


def _read(config: AdapterConfig, base: Base) -> Dataset:
    resolution = config.resolution or base.resolution
    buckets = (
        Buckets.scaled(resolution, multiple=base.size_multiple, no_upscale=config.no_upscale)
        if config.buckets
        else Buckets.square(resolution)
    )
    return hold_out(read_sources(config.sources, buckets=buckets), config.validation.held_out)


def _run(
    configs: Sequence[AdapterConfig], datasets: Sequence[Dataset], base: Base
) -> tuple[str, dict[str, str]]:
    documents = [config_document(config, base_identity=base.identity) for config in configs]
    identity = {
        "config": hashlib.sha256(b"".join(documents)).hexdigest(),
        "data set": hashlib.sha256(b"".join(dataset.manifest() for dataset in datasets)).hexdigest(),
        "base": base.identity,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    first = file_stem(configs[0].name)
    others = f"-and-{len(configs) - 1}" if len(configs) > 1 else ""
    return f"{first}{others}-{digest[:12]}", identity


def _plan(
    config: AdapterConfig,
    dataset: Dataset,
    run: str,
    group: int,
    steps: Mapping[str, int],
    registry: Registry,
) -> AdapterPlan:
    numbers = [known.number for known in registry.known_versions(config.name)]
    lowered = [item.source.rules.plain(item.caption).lower() for item in dataset.examples]
    triggers = [word.lower() for word in config.trigger_words]
    plan = AdapterPlan(
        config=config,
        dataset=dataset,
        run=run,
        epochs=0.0,
        without_trigger=sum(bool(triggers) and not any(t in c for t in triggers) for c in lowered),
        next_number=max(numbers, default=0) + 1,
        resumes_at=steps.get(config.name.lower(), 0),
        group=group,
    )
    passes = batch_order(dataset, plan.reading).batches_per_epoch
    epochs = config.steps * config.accumulation / passes
    return AdapterPlan(**{**vars(plan), "epochs": epochs})
