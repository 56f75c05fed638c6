"""Train the adapters of a config, one after another on one resident base, and register each."""

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapterhub._version import __version__
from adapterhub.bases.find import Base, find_base
from adapterhub.bases.load import choose_device, load_pipeline
from adapterhub.errors import CheckpointError, OutputError
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.randomness import SCHEME
from adapterhub.training.checkpoint import (
    Checkpoint,
    factor_tensors,
    load_checkpoint,
    optimizer_tensors,
    restore_factors,
    restore_optimizer,
    save_checkpoint,
)
from adapterhub.training.config import AdapterConfig, TrainConfig, config_document
from adapterhub.training.dataset import Dataset, read_sources
from adapterhub.training.encoding import EncodingCache, encode_dataset
from adapterhub.training.loop import train_loop
from adapterhub.training.network import LoraNetwork
from adapterhub.training.snr import loss_weight, signal_to_noise
from adapterhub_registry.files import make_directory, write_atomically
from adapterhub_registry.intake import PreviewPicture
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

VALIDATION_STEPS = 20
VALIDATION_GUIDANCE = 5.0


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        name: The adapter.
        step: Steps done.
        steps: Steps in all.
        loss: A running mean.
        seconds_left: For this adapter.
    """

    name: str
    step: int
    steps: int
    loss: float
    seconds_left: float


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
    """

    config: AdapterConfig
    dataset: Dataset
    run: str
    epochs: float
    without_trigger: int
    next_number: int
    resumes_at: int


OnProgress = Callable[[Progress], None]


def plan(config: TrainConfig, *, registry: Registry, resume: str | None = None) -> list[AdapterPlan]:
    """Check everything that can be checked without loading the base, and say what would happen.

    Args:
        config: What to train.
        registry: Where it would be registered.
        resume: A run's name, to go on from its checkpoint; `latest` means each adapter's own.

    Raises:
        AdapterHubError: As `find_base`, `read_sources` and `load_checkpoint`.
    """
    base = find_base(config.base.model)
    return [_plan_adapter(adapter, base, registry, resume) for adapter in config.adapters]


def train(
    config: TrainConfig,
    *,
    registry: Registry,
    resume: str | None = None,
    on_progress: OnProgress | None = None,
) -> list[Version]:
    """Train every adapter of a config, and register each as the next version of its name.

    All data sets are read before the base is loaded. The same config and data, trained again, give the same
    weights, and no new version.

    Args:
        config: What to train.
        registry: Where versions go; runs and caches lie in its home.
        resume: A run's name, to go on from its checkpoint; `latest` means each adapter's own.
        on_progress: Called after each step.

    Returns:
        The versions, in the order of the config.

    Raises:
        AdapterHubError: As `plan`; `TrainingPictureError` if a picture has changed since then;
        `TrainingError` if a
            loss is no number.
    """
    plans = plan(config, registry=registry, resume=resume)
    base = find_base(config.base.model)
    device, dtype = choose_device(config.base.device or None, config.base.dtype or None)
    if not config.base.dtype and device != "cpu":
        dtype = "bfloat16"
    threads = torch.get_num_threads()
    if config.base.threads:
        torch.set_num_threads(config.base.threads)
    try:
        pipeline = load_pipeline(base, device=device, dtype=dtype)
        return [_train_adapter(item, base, pipeline, registry, on_progress) for item in plans]
    finally:
        torch.set_num_threads(threads)


def _plan_adapter(config: AdapterConfig, base: Base, registry: Registry, resume: str | None) -> AdapterPlan:
    dataset = read_sources(config.sources)
    identity = _identity(config, dataset, base)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    run = f"{config.name.lower().replace('/', '--')}-{digest[:12]}"
    resumes_at = 0
    if resume is not None:
        if resume not in ("latest", run):
            name = config.name
            reason = f"with this config, data and base, {name} is the run {run}"
            raise CheckpointError(registry.home / "runs" / resume, reason)
        resumes_at = load_checkpoint(registry.home / "runs" / run, identity=identity).step
    numbers = [known.number for known in registry.known_versions(config.name)]
    lowered = [item.caption.lower() for item in dataset.examples]
    triggers = [word.lower() for word in config.trigger_words]
    return AdapterPlan(
        config=config,
        dataset=dataset,
        run=run,
        epochs=config.steps * config.batch_size / len(dataset.examples),
        without_trigger=sum(bool(triggers) and not any(t in c for t in triggers) for c in lowered),
        next_number=max(numbers, default=0) + 1,
        resumes_at=resumes_at,
    )


def _train_adapter(
    item: AdapterPlan,
    base: Base,
    pipeline: "StableDiffusionXLPipeline",
    registry: Registry,
    on_progress: OnProgress | None,
) -> Version:
    config, run = item.config, registry.home / "runs" / item.run
    make_directory(run)
    identity = _identity(config, item.dataset, base)
    resolution = config.resolution or int(pipeline.unet.config["sample_size"]) * pipeline.vae_scale_factor
    data = encode_dataset(
        pipeline,
        item.dataset,
        size=resolution,
        base_identity=base.identity,
        cache=EncodingCache(registry.home / "cache" / "encodings"),
    )
    name = config.name.lower()
    network = LoraNetwork(
        pipeline.unet,
        rank=config.network.rank,
        alpha=config.network.alpha or config.network.rank,
        seed=config.seed,
        key=name,
    )
    optimizer = torch.optim.AdamW(
        network.parameters,
        lr=config.optimizer.learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
    )
    losses: list[float] = []
    if item.resumes_at:
        checkpoint = load_checkpoint(run, identity=identity)
        restore_factors(network.parameters, checkpoint.tensors)
        restore_optimizer(optimizer, checkpoint.tensors)
        losses += checkpoint.losses
        torch.set_num_threads(checkpoint.threads)
    began = time.monotonic()

    def after_step(step: int, loss: float) -> None:
        losses.append(loss)
        if config.save_every and step % config.save_every == 0 and step < config.steps:
            tensors = {**factor_tensors(network.parameters), **optimizer_tensors(optimizer)}
            done = Checkpoint(step, tensors, losses, torch.get_num_threads())
            save_checkpoint(run, done, identity=identity)
        if on_progress is not None:
            rate = (time.monotonic() - began) / max(step - item.resumes_at, 1)
            recent = losses[-50:]
            on_progress(
                Progress(
                    config.name, step, config.steps, sum(recent) / len(recent), rate * (config.steps - step)
                )
            )

    alphas = pipeline.scheduler.alphas_cumprod.float()
    with network:
        train_loop(
            pipeline.unet,
            optimizer,
            data,
            name=name,
            seed=config.seed,
            start=item.resumes_at,
            steps=config.steps,
            batch_size=config.batch_size,
            resolution=resolution,
            learning_rate=config.optimizer.learning_rate,
            warmup=config.optimizer.warmup,
            max_grad_norm=config.optimizer.max_grad_norm or math.inf,
            caption_dropout=config.data[0].caption_dropout,
            alphas_cumprod=alphas,
            loss_weight=loss_weight(
                signal_to_noise(alphas), config.objective.weighting, gamma=config.objective.gamma
            ),
            on_step=after_step,
        )
        previews = _draw_previews(pipeline, config, run, base.name)
    return _register(item, network, losses, previews, base, run, registry)


def _draw_previews(
    pipeline: "StableDiffusionXLPipeline", config: AdapterConfig, run: Path, base: str
) -> list[PreviewPicture]:
    """Draw the validation prompts with the network still active."""
    previews: list[PreviewPicture] = []
    call: Any = pipeline
    for number, prompt in enumerate(config.validation.prompts):
        seed = config.validation.seed + number
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            picture = call(
                prompt,
                num_inference_steps=VALIDATION_STEPS,
                guidance_scale=VALIDATION_GUIDANCE,
                generator=generator,
            ).images[0]
        path = run / f"preview-{number + 1}.png"
        try:
            picture.save(path)
        except OSError as exc:
            raise OutputError(path, exc.strerror or str(exc)) from exc
        settings = {
            "steps": str(VALIDATION_STEPS),
            "guidance_scale": f"{VALIDATION_GUIDANCE:g}",
            "width": str(picture.width),
            "height": str(picture.height),
            "scheduler": type(pipeline.scheduler).__name__,
            "weight": "1",
            "base": base,
        }
        previews.append(PreviewPicture(path, prompt, seed, settings))
    return previews


def _register(
    item: AdapterPlan,
    network: LoraNetwork,
    losses: Sequence[float],
    previews: Sequence[PreviewPicture],
    base: Base,
    run: Path,
    registry: Registry,
) -> Version:
    """Write the weights, and add them with everything that made them."""
    config = item.config
    weights = run / "pytorch_lora_weights.safetensors"
    write_atomically(weights, diffusers_bytes(network.tensors()))
    last = losses[-max(len(losses) // 10, 1) :]
    report = {
        "steps": len(losses),
        "final_loss": round(sum(last) / len(last), 6),
        "losses": [round(value, 6) for value in losses],
        "environment": _environment(),
    }
    documents = {
        "config.json": config_document(config, base_identity=base.identity),
        "data.json": item.dataset.manifest(),
        "run.json": (json.dumps(report, sort_keys=True, indent=1) + "\n").encode(),
    }
    digests = {name: f"sha256:{hashlib.sha256(content).hexdigest()}" for name, content in documents.items()}
    return registry.add(
        weights,
        name=config.name,
        base=base.name,
        trigger_words=config.trigger_words,
        licence=config.licence,
        lineage={
            "operation": "trained",
            "config": digests["config.json"],
            "data": digests["data.json"],
            "run": digests["run.json"],
        },
        documents=documents,
        previews=previews,
        message=f"trained for {config.steps} steps on {len(item.dataset.examples)} pictures",
        title=config.title or None,
        description=config.description or None,
        kind=config.kind,
        tags=config.tags or None,
    )


def _identity(config: AdapterConfig, dataset: Dataset, base: Base) -> Mapping[str, str]:
    """Return what a checkpoint must agree on to be gone on from."""
    return {
        "config": hashlib.sha256(config_document(config, base_identity=base.identity)).hexdigest(),
        "data set": hashlib.sha256(dataset.manifest()).hexdigest(),
        "base": base.identity,
    }


def _environment() -> dict[str, str]:
    """Return what else decides the bytes, and no clock, host or path."""
    libraries = ("torch", "diffusers", "transformers", "numpy")
    return {
        "adapterhub": __version__,
        "randomness": SCHEME,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in libraries},
    }
