"""One run: adapters that are trained together, with checkpoints, and registered one by one."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.bases.compiled import CompiledBlocks, compiler_name
from adapterhub.bases.find import Base
from adapterhub.errors import TrainingError, TrainingStoppedError
from adapterhub.training.bank import LoraBank
from adapterhub.training.checkpoint import (
    Checkpoint,
    Ended,
    load_checkpoint,
    restore,
    save_checkpoint,
    state_of,
)
from adapterhub.training.config import TrainConfig, config_document
from adapterhub.training.environment import environment
from adapterhub.training.executor import Events, Executor, Network, Trainee, Training
from adapterhub.training.loading import IdleParts, idle_parts
from adapterhub.training.objective import ObjectiveTable
from adapterhub.training.observer import Observer
from adapterhub.training.peft_network import PeftNetwork
from adapterhub.training.plan import AdapterPlan, GroupPlan
from adapterhub.training.progress import OnProgress as OnProgress
from adapterhub.training.progress import Progress as Progress
from adapterhub.training.report import NAME
from adapterhub.training.rows import AdapterRows, Encoder
from adapterhub.training.runs import held_run, run_directory
from adapterhub.training.scores import ScoreModels
from adapterhub.training.stopping import Stop
from adapterhub.training.text import TEXT_ENCODERS, CaptionEncoder
from adapterhub.training.weights_file import weights_bytes
from adapterhub_registry.files import write_atomically
from adapterhub_registry.manifest import Version
from adapterhub_registry.store import Registry

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline


@dataclass(frozen=True)
class Site:
    """What all runs of a training share.

    Attributes:
        base: What is trained on.
        config: What is trained.
        pipeline: Of the base.
        idle: Likewise.
        encoder: Likewise.
        registry: Where versions go; runs lie in its home.
        score_models: That sample pictures are scored with.
    """

    base: Base
    config: TrainConfig
    pipeline: "StableDiffusionXLPipeline"
    idle: IdleParts
    encoder: Encoder
    registry: Registry
    score_models: ScoreModels


class Run:
    """Adapters that are trained together.

    Args:
        group: Which.
        site: Where.
        on_progress: Called after each step of an adapter.

    Attributes:
        versions: Of those that are trained, by name.
        failed: Why others are not.
    """

    def __init__(self, group: GroupPlan, site: Site, on_progress: OnProgress | None) -> None:
        self._group = group
        self._site = site
        self._items = {item.reading.name: item for item in group.items}
        self._on_progress = on_progress
        self._directory = run_directory(site.registry.home, group.run)
        self._ended: dict[str, Ended] = {}
        self._passes = 0
        self._is_due = False
        self._blocks: CompiledBlocks | None = None
        self.versions: dict[str, Version] = {}
        self.failed: list[TrainingError] = []

    def train(self, stop: Stop, *, is_resumed: bool) -> None:
        """Train all adapters of the group.

        Raises:
            TrainingStoppedError: It was asked to stop; a checkpoint is there.
        """
        with held_run(self._directory):
            identity = self._group.identity
            found = load_checkpoint(self._directory, identity=identity) if is_resumed else None
            observer = Observer(
                self._group,
                pipeline=self._site.pipeline,
                base=self._site.base,
                encoder=self._site.encoder,
                directory=self._directory,
                trackers=self._site.config.group.trackers,
                on_progress=self._on_progress,
                is_resumed=is_resumed,
                passes=found.passes if found else 0,
                drawing=self._drawing,
                score_models=self._site.score_models,
            )
            with observer:
                self._train(stop, found, observer)

    def _train(self, stop: Stop, found: Checkpoint | None, observer: Observer) -> None:
        site = self._site
        trainees = [self._trainee(item) for item in self._items.values()]
        slots = min(len(trainees), site.config.group.max_adapters)
        network = self._network(slots)
        encode = CaptionEncoder([site.pipeline.text_encoder, site.pipeline.text_encoder_2])
        executor = Executor(site.pipeline.unet, network, trainees, slots=slots, encode_captions=encode)
        if found is not None:
            self._restore_ended(executor, found, observer)
        observer.begin()
        events = Events(
            on_step=lambda training: self._after_step(training, network, observer),
            on_pass=lambda active: self._after_pass(active, observer),
            on_end=lambda training: self._end(training, network, observer),
            should_stop=lambda: stop.is_asked,
        )
        idle = idle_parts(site.pipeline.unet.device, trains_text=self._trains_text)
        name = compiler_name(site.config.base.compile)
        with site.idle.away(idle), network, closing(CompiledBlocks(site.pipeline.unet, name)) as blocks:
            self._blocks = blocks
            if found is not None:
                for state in found.active:
                    restore(executor, state)
            is_done = executor.run(events)
        if not is_done:
            self._save(executor.active)
            raise TrainingStoppedError(self._group.run)

    def _trainee(self, item: AdapterPlan) -> Trainee:
        config = item.config
        rows = AdapterRows(item.dataset, item.reading, self._site.encoder)
        for _ in rows.encode_all(config.steps * config.accumulation):
            pass
        alphas: Any = self._site.pipeline.scheduler.alphas_cumprod
        return Trainee(
            name=item.reading.name,
            seed=config.seed,
            network=config.network,
            optimizer=config.optimizer,
            objective=ObjectiveTable(config.objective, alphas),
            steps=config.steps,
            accumulation=config.accumulation,
            rows=rows,
        )

    @property
    def _trains_text(self) -> bool:
        return any(item.config.network.trains_text for item in self._items.values())

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Have the whole pipeline at hand, and nothing compiled for the few pictures of a run."""
        if self._blocks is not None:
            self._blocks.run(compiled=False)
        with self._site.idle.at_hand():
            yield
        if self._blocks is not None:
            self._blocks.run(compiled=True)

    def _network(self, slots: int) -> Any:
        pipeline = self._site.pipeline
        configs = [item.config.network for item in self._items.values()]
        text = TEXT_ENCODERS if self._trains_text else ()
        components = {name: getattr(pipeline, name) for name in ("unet", *text)}
        if configs[0].algorithm != "lora":
            return PeftNetwork(components, device=pipeline.unet.device)
        return LoraBank(components, configs, slots=slots, device=pipeline.unet.device)

    def _restore_ended(self, executor: Executor, found: Checkpoint, observer: Observer) -> None:
        torch.set_num_threads(found.threads)
        self._passes = found.passes
        for name, ended in found.ended.items():
            executor.take(name)
            self._ended[name] = ended
            observer.end(name, ended)
            config = self._items[name].config
            if ended.error:
                self.failed.append(TrainingError(config.name, ended.step, ended.error))
            else:
                reference = f"{config.name}@{ended.version}"
                self.versions[config.name] = self._site.registry.resolve(reference)

    def _after_step(self, training: Training, network: Network, observer: Observer) -> None:
        config, step = self._items[training.trainee.name].config, training.step
        if config.save_every and step % config.save_every == 0 and step < config.steps:
            self._is_due = True
        observer.after_step(training, network)

    def _after_pass(self, active: Sequence[Training], observer: Observer) -> None:
        self._passes += 1
        observer.after_pass(self._passes)
        if self._is_due:
            self._save(active)
            self._is_due = False

    def _save(self, active: Sequence[Training]) -> None:
        checkpoint = Checkpoint(
            self._passes, [state_of(one) for one in active], self._ended, torch.get_num_threads()
        )
        keep = self._site.config.group.keep_checkpoints
        save_checkpoint(self._directory, checkpoint, identity=self._group.identity, keep=keep)

    def _end(self, training: Training, network: Network, observer: Observer) -> None:
        """Register an adapter that is trained; one that was frozen is kept as a file of the run."""
        item = self._items[training.trainee.name]
        config = item.config
        path = self._directory / f"{item.stem}.safetensors"
        write_atomically(path, weights_bytes(network.tensors(training.slot)))
        if training.error:
            self.failed.append(TrainingError(config.name, training.step + 1, training.error))
            observer.report(training, path)
            self._finish(training, Ended(training.step, training.error), observer)
            return
        measured = observer.measure_last(training, network)
        previews = observer.last_samples(training, network)
        last = training.losses[-max(len(training.losses) // 10, 1) :]
        report = {
            "steps": len(training.losses),
            "final_loss": round(sum(last) / len(last), 6),
            **measured,
            "losses": [round(value, 6) for value in training.losses],
            "group": [other.config.name for other in self._group.items],
            "environment": environment(),
        }
        documents = {
            "config.json": config_document(config, base_identity=self._site.base.identity),
            "data.json": item.dataset.manifest(),
            "run.json": (json.dumps(report, sort_keys=True, indent=1) + "\n").encode(),
        }
        lineage = {"operation": "trained"}
        for name, content in documents.items():
            lineage[name.removesuffix(".json")] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        # It tells of speed and memory, so it is no part of the lineage.
        documents[NAME] = observer.report(training, path)
        version = self._site.registry.add(
            path,
            name=config.name,
            base=self._site.base.name,
            trigger_words=config.trigger_words,
            licence=config.licence,
            lineage=lineage,
            documents={name: content for name, content in documents.items() if content},
            previews=previews,
            message=f"trained for {config.steps} steps on {len(item.dataset.examples)} pictures",
            title=config.title or None,
            description=config.description or None,
            kind=config.kind,
            tags=config.tags or None,
        )
        self.versions[config.name] = version
        self._finish(training, Ended(training.step, version=version.number), observer)

    def _finish(self, training: Training, ended: Ended, observer: Observer) -> None:
        self._ended[training.trainee.name] = ended
        observer.end(training.trainee.name, ended)
