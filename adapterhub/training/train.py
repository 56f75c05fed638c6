"""Train the adapters of a config on one resident base, and register each."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from adapterhub.bases.find import Base, find_base
from adapterhub.bases.load import load_pipeline
from adapterhub.errors import TrainingError
from adapterhub.training.cache import EncodingCache
from adapterhub.training.config import BaseConfig, TrainConfig
from adapterhub.training.plan import AdapterPlan, make_plan, placement
from adapterhub.training.rows import Encoder
from adapterhub.training.run import OnProgress, Run, Site
from adapterhub.training.stopping import Stop
from adapterhub.training.trackers import require_trackers
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline


def plan(config: TrainConfig, *, registry: Registry, resume: str | None = None) -> list[AdapterPlan]:
    """Check everything that can be checked without loading the base, and say what would happen.

    Args:
        config: What to train.
        registry: Where it would be registered.
        resume: A run's name, to go on from its checkpoint; `latest` means each group's own.

    Raises:
        AdapterHubError: As `find_base`, `read_sources` and `load_checkpoint`.
    """
    groups = make_plan(config, find_base(config.base.model), registry=registry, resume=resume)
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

    Args:
        config: What to train.
        registry: Where versions go; runs and caches lie in its home.
        resume: A run's name, to go on from its checkpoint; `latest` means each group's own.
        on_progress: Called after each step.

    Returns:
        The versions, in the order of the config.

    Raises:
        AdapterHubError: As `plan`; `TrainingPictureError` if a picture has changed since then;
        `TrainingError` if a loss is no number, after all others are trained; `TrainingStoppedError`.
    """
    base = find_base(config.base.model)
    require_trackers(config.group.trackers)
    groups = make_plan(config, base, registry=registry, resume=resume)
    threads = torch.get_num_threads()
    with ExitStack() as held:
        held.callback(torch.set_num_threads, threads)
        if config.base.threads:
            torch.set_num_threads(config.base.threads)
        pipeline = _load(base, config.base)
        encoder = Encoder(pipeline, EncodingCache(registry.home / "cache" / "encodings"))
        site = Site(base, config, pipeline, encoder, registry)
        stop = held.enter_context(Stop())
        made: dict[str, Version] = {}
        failed: list[TrainingError] = []
        for group in groups:
            run = Run(group, site, on_progress)
            run.train(stop, is_resumed=resume in ("latest", group.run))
            made |= run.versions
            failed += run.failed
    if failed:
        raise failed[0]
    return [made[adapter.name] for adapter in config.adapters]


def _load(base: Base, config: BaseConfig) -> "StableDiffusionXLPipeline":
    device, dtype = placement(config)
    pipeline = load_pipeline(base, device=device, dtype=dtype)
    blocks = [part for part in pipeline.unet.modules() if hasattr(part, "gradient_checkpointing")]
    if config.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
        for number, part in enumerate(blocks):
            vars(part)["gradient_checkpointing"] = number % config.gradient_checkpointing == 0
    if config.channels_last:
        pipeline.unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return pipeline
