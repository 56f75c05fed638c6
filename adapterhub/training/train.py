"""Train the adapters of a config on one resident base, and register each."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from adapterhub.bases.find import Base, find_base
from adapterhub.errors import TrainingError
from adapterhub.settings import Launch
from adapterhub.training.attention import attention_kernels
from adapterhub.training.cache import encoding_cache
from adapterhub.training.config import AdapterConfig, TrainConfig
from adapterhub.training.loading import IdleParts, cpu_threads, deterministic_kernels, load_for_training
from adapterhub.training.plan import AdapterPlan, make_plan
from adapterhub.training.processes import Processes
from adapterhub.training.rows import Encoder
from adapterhub.training.run import OnProgress, Run, Site
from adapterhub.training.scores import load_score_models
from adapterhub.training.spread import Spread
from adapterhub.training.stopping import Stop
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry


def plan(config: TrainConfig, *, registry: Registry, resume: str | None = None) -> list[AdapterPlan]:
    """Check everything that can be checked without loading the base, and say what would happen.

    Args:
        config: What to train.
        registry: Where it would be registered.
        resume: A run's name, to go on from its checkpoint; `latest` means each group that has one.

    Raises:
        AdapterHubError: As `find_base` and `make_plan`.
    """
    base, processes = find_base(config.base.model), Launch.from_environment().count
    groups = make_plan(config, base, registry=registry, resume=resume, processes=processes)
    by_name = {item.config.name: item for group in groups for item in group.items}
    return [by_name[adapter.name] for adapter in config.adapters]


def train(
    config: TrainConfig,
    *,
    registry: Registry,
    resume: str | None = None,
    on_progress: OnProgress | None = None,
) -> list[Version]:
    """Train every adapter of a config, and register each as the next version of its name.

    All LoRAs are trained together, up to `group.max_adapters` in each forward of the base; each is
    registered when it is done. All data sets are read before the base is loaded. The same config and data,
    trained again, give the same weights, and no new version.

    SIGINT and SIGTERM end it after the step that is under way, with a checkpoint.

    Under `torchrun` or `accelerate launch` the processes share the adapters, or the samples of the only one,
    and each of them returns, or raises, when all are done.

    Args:
        config: What to train.
        registry: Where versions go; runs and caches lie in its home.
        resume: A run's name, to go on from its checkpoint; `latest` means each group that has one.
        on_progress: Called after each step.

    Returns:
        The versions, in the order of the config.

    Raises:
        AdapterHubError: As `plan`; `TrainingPictureError` if a picture has changed since then;
        `TrainingError` if a loss is no number, after all others are trained; `TrainingStoppedError`;
        `OtherProcessError` if that is so in another process alone.
    """
    processes = Processes(Launch.from_environment())
    with ExitStack() as held:
        made = processes.join_parts(
            lambda: _train_share(held, processes, config, registry, resume, on_progress)
        )
    return [registry.resolve(made[adapter.name]) for adapter in config.adapters]


def _train_share(
    held: ExitStack,
    processes: Processes,
    config: TrainConfig,
    registry: Registry,
    resume: str | None,
    on_progress: OnProgress | None,
) -> dict[str, str]:
    """Train what this process has to, and return the versions by name; `held` ends when all are done."""
    base = find_base(config.base.model)
    processes.choose_device(config.base.device)
    plans = make_plan(config, base, registry=registry, resume=resume, processes=processes.launch.count)
    index = processes.launch.index
    groups = [group for group in plans if group.processes > 1 or group.process == index]
    if not groups:
        return {}
    site = held.enter_context(open_site(config, base, registry=registry))
    stop = held.enter_context(Stop(processes))
    made: dict[str, str] = {}
    failed: list[TrainingError] = []
    for group in groups:
        spread = Spread(processes, stop) if group.processes > 1 else None
        run = Run(group, site, on_progress, spread=spread)
        if processes.launch.is_main or spread is None:
            run.train(stop, is_resumed=group.is_resumed)
        else:
            run.follow(spread, is_resumed=group.is_resumed)
        made |= {name: version.reference for name, version in run.versions.items()}
        failed += run.failed
    if failed:
        raise failed[0]
    return made


@contextmanager
def open_site(
    config: TrainConfig,
    base: Base,
    *,
    registry: Registry,
    adapters: Sequence[AdapterConfig] | None = None,
) -> Iterator[Site]:
    """Load the base as a config has it, with torch's settings, which are put back at the end.

    Args:
        config: What is trained.
        base: On what.
        registry: Where versions go.
        adapters: Who may ask for models that score; by default those of the config.
    """
    with ExitStack() as held:
        held.enter_context(cpu_threads(config.base.threads))
        held.enter_context(deterministic_kernels(wanted=config.group.deterministic))
        score_models = load_score_models(config.adapters if adapters is None else adapters)
        pipeline = load_for_training(base, config.base)
        device = pipeline.unet.device
        held.enter_context(attention_kernels(device, deterministic=config.group.deterministic))
        idle = IdleParts(pipeline)
        encoder = Encoder(pipeline, encoding_cache(registry.home), at_hand=idle.at_hand)
        yield Site(base, config, pipeline, idle, encoder, registry, score_models)
